// What a client of either TypeScript SDK does with the servers of ../servers/hard_cases.mjs.
// options.parts: names of the functions below, each with the prefix of its server's tools.
import { fileURLToPath } from "node:url";
import { answering, asked, options } from "./conversation.mjs";

const WAIT_MS = 20000;
const PAD = "note://pad";
const LOGGED = { "io.modelcontextprotocol/logLevel": "info" };

// Like fetch, but the first event stream that answers a call of "slow" breaks off after its
// first bytes.
export function oneBrokenStream() {
  let isBroken = false;
  return async (url, request) => {
    const response = await fetch(url, request);
    const isSlow = !isBroken && String(request?.body).includes("slow");
    if (!isSlow || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
      return response;
    }
    isBroken = true;
    const reader = response.body.getReader();
    const body = new ReadableStream({
      async pull(controller) {
        controller.enqueue((await reader.read()).value);
        await reader.cancel();
        controller.error(new TypeError("terminated"));
      },
    });
    return new Response(body, response);
  };
}

// client: connected. call(params, requestOptions): calls a tool.
// isModern: whether it speaks the stateless era.
export async function converseWithHardCases(client, call, isModern) {
  const heard = [];
  const waiting = new Set();
  client.fallbackNotificationHandler = async (notification) => {
    heard.push(notification);
    for (const look of waiting) look();
  };
  const until = (method, matches = () => true) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`no ${method}; heard ${JSON.stringify(heard)}`)),
        WAIT_MS,
      );
      const look = () => {
        const found = heard.find((one) => one.method === method && matches(one.params));
        if (!found) return;
        clearTimeout(timer);
        waiting.delete(look);
        resolve(found.params);
      };
      waiting.add(look);
      look();
    });
  const say = async (name, args = {}, more = {}) =>
    (await call({ name, arguments: args, ...more }, {})).content[0].text;

  const parts = {
    async asks(prefix) {
      return [
        await say(`${prefix}elicit`),
        await say(`${prefix}sample`),
        await say(`${prefix}list_roots`),
      ];
    },
    async says(prefix) {
      // A server with sessions reports on another connection than it answers on: on a busy
      // machine the report can come too late for the stream of a stateless call.
      const isHeard = () => heard.some(({ method }) => method === "notifications/message");
      for (let tries = 0; tries < (isModern ? 20 : 1) && !isHeard(); tries += 1) {
        await say(`${prefix}log`, {}, isModern ? { _meta: LOGGED } : {});
      }
      const { data } = await until("notifications/message");
      if (isModern) await client.listen({ resourceSubscriptions: [PAD] });
      else await client.subscribeResource({ uri: PAD });
      await say(`${prefix}touch`);
      const { uri } = await until("notifications/resources/updated");
      return [data, uri];
    },
    async fails(prefix) {
      const failed = await call({ name: `${prefix}break_off`, arguments: {} }, {}).catch(
        (error) => ({ isError: true, content: [{ text: error.message }] }),
      );
      const [reason] = /The server \w+ broke the connection\./.exec(failed.content[0].text) ?? [];
      return [failed.isError, reason, await say(`${prefix}recall`)];
    },
    async late(prefix) {
      let answer;
      if (!isModern) answering.when = new Promise((resolve) => (answer = resolve));
      const text = await say(`${prefix}ask_and_go_on`);
      answer?.();
      answering.when = Promise.resolve();
      return [text, await say(`${prefix}recall`)];
    },
    async visits(prefix) {
      const before = asked.length;
      const action = await say(`${prefix}visit`);
      const page = asked.slice(before).find((one) => one.mode === "url");
      if (!isModern) {
        await until(
          "notifications/elicitation/complete",
          ({ elicitationId }) => elicitationId === page.elicitationId,
        );
      }
      return [action, page.url];
    },
    async big(prefix) {
      return (await say(`${prefix}big`, { characters: options.characters })).length;
    },
    async resumes(prefix) {
      return say(`${prefix}slow`);
    },
    async grows(prefix) {
      if (isModern) await client.listen({ toolsListChanged: true });
      heard.length = 0;
      await say(`${prefix}grow`, { name: options.grown });
      for (;;) {
        await until("notifications/tools/list_changed");
        // Other clients may have had tools added, too.
        heard.length = 0;
        const { tools } = await client.listTools();
        if (tools.some(({ name }) => name === `${prefix}${options.grown}`)) return true;
      }
    },
    // The server asks for the roots once its session has begun, which the first call does.
    async files(prefix) {
      const root = fileURLToPath(options.root);
      let text = "";
      for (let tries = 0; tries < 40 && !text.includes(root); tries += 1) {
        text = await say(`${prefix}list_allowed_directories`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return text.includes(root);
    },
  };
  const report = {};
  for (const [part, prefix] of options.parts) {
    report[part] = await parts[part](prefix).catch((error) => `failed: ${error.message}`);
  }
  await client.close();
  process.stdout.write(`${JSON.stringify(report)}\n`);
  process.exit(0);
}
