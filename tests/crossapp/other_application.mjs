// The other application of the shared database: its published packages, driven over standard input.
//
// Arguments: the folder whose node_modules holds the packages. Environment: CREDS_KEY, CREDS_IV and
// JWT_SECRET, read once by the packages. One request is one line of extended JSON, answered by one:
//   {"call": "methods.findToken", "arguments": [{...}]}
//   {"result": ...} or {"error": {"name": ..., "code": ..., "message": ...}}
// Roots of a call: `methods`, `models`, `data` (@librechat/data-schemas), `provider`
// (librechat-data-provider), `jsonwebtoken`, and `connection`, which is where to find the database.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

// Loggers of the packages write to standard output, which belongs to the answers.
const answer = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr);

const load = createRequire(join(process.argv[2], 'package.json'));
const mongoose = load('mongoose');
const data = load('@librechat/data-schemas');
const { EJSON } = mongoose.mongo.BSON;

// Indexes are made when a test says so: their order is what is tested.
mongoose.set('autoIndex', false);
mongoose.set('autoCreate', false);

const connection = {
  async open(uri) {
    await mongoose.disconnect();
    await mongoose.connect(uri, { serverSelectionTimeoutMS: 5000 });
  },
  dropSupersededIndexes: () => data.dropSupersededTenantIndexes(mongoose.connection),
  fillInNames: () => data.backfillMCPServerNormalizedNames(mongoose.connection),
};

const roots = {
  models: data.createModels(mongoose),
  methods: data.createMethods(mongoose),
  provider: load('librechat-data-provider'),
  jsonwebtoken: load('jsonwebtoken'),
  data,
  connection,
};

function resolve(path) {
  const names = path.split('.');
  const last = names.pop();
  const owner = names.reduce((value, name) => value?.[name], roots);
  if (typeof owner?.[last] !== 'function') throw new Error(`There is no ${path}.`);
  return (...given) => owner[last](...given);
}

function plain(value) {
  if (value === undefined) return null;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value?.toObject === 'function') return value.toObject({ flattenMaps: true });
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  // What a validator of zod answers.
  if (value?.success === false) return { success: false, issues: value.error.issues };
  return value;
}

async function handle(line) {
  try {
    const request = EJSON.parse(line);
    const result = await resolve(request.call)(...request.arguments);
    return { result: plain(result) };
  } catch (error) {
    return { error: { name: error.name, code: error.code ?? null, message: error.message } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  answer(`${EJSON.stringify(await handle(line))}\n`);
}
await mongoose.disconnect();
process.exit(0);
