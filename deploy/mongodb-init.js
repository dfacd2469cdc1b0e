// Make the node a replica set, and create the application's user or bring it up to date.
// Runs at every start of the compose project, so a new password in .env is set here too.
"use strict";

const PRIMARY_WAIT_MS = 60_000;
const STEP_MS = 500;
const NOT_YET_INITIALIZED = 94;

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function initiateReplicaSet() {
  try {
    rs.status();
  } catch (error) {
    if (error.code !== NOT_YET_INITIALIZED) throw error;
    rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongodb:27017" }] });
    print("replica set initiated");
  }
}

function waitForPrimary() {
  for (let waited = 0; waited < PRIMARY_WAIT_MS; waited += STEP_MS) {
    if (db.hello().isWritablePrimary) return;
    sleep(STEP_MS);
  }
  throw new Error("the node did not become primary");
}

// readWrite does not include collMod, which sets validators on the registry's own collections.
function ensureRole(admin, database) {
  const privileges = [{ resource: { db: database, collection: "" }, actions: ["collMod"] }];
  const roles = [{ role: "readWrite", db: database }];
  if (admin.getRole("registryApplication") === null) {
    admin.createRole({ role: "registryApplication", privileges, roles });
  } else {
    admin.updateRole("registryApplication", { privileges, roles });
  }
}

function ensureUser(admin, name, password) {
  const roles = [{ role: "registryApplication", db: "admin" }];
  if (admin.getUser(name) === null) {
    admin.createUser({ user: name, pwd: password, roles });
    print(`user ${name} created`);
  } else {
    admin.updateUser(name, { pwd: password, roles });
  }
}

const admin = db.getSiblingDB("admin");
admin.auth(required("MONGO_ROOT_USERNAME"), required("MONGO_ROOT_PASSWORD"));
initiateReplicaSet();
waitForPrimary();
ensureRole(admin, required("MONGO_DATABASE"));
ensureUser(admin, required("MONGO_APP_USERNAME"), required("MONGO_APP_PASSWORD"));
print("ready");
