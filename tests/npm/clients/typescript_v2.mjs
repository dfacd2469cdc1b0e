// The TypeScript SDK of both eras.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { converseWithHardCases, oneBrokenStream } from "./hard_cases.mjs";
import * as shared from "./conversation.mjs";

const MODES = { legacy: "legacy", auto: "auto", "2026-07-28": { pin: "2026-07-28" } };

const client = new Client(
  { name: "typescript-v2", version: "1" },
  {
    capabilities: shared.capabilities,
    versionNegotiation: { mode: MODES[shared.options.mode] },
  },
);
client.setRequestHandler("elicitation/create", ({ params }) => shared.elicited(params));
client.setRequestHandler("sampling/createMessage", () => shared.sampled);
client.setRequestHandler("roots/list", () => shared.roots);
const requestInit = { headers: shared.headers };
const isHard = shared.options.parts !== undefined;
const fetch = isHard ? oneBrokenStream() : undefined;
await client.connect(
  new StreamableHTTPClientTransport(new URL(shared.options.url), { requestInit, fetch }),
);
const call = (params, options) => client.callTool(params, options);
if (isHard) await converseWithHardCases(client, call, shared.options.mode !== "legacy");
await shared.converse(client, call, (handler) =>
  client.setNotificationHandler("notifications/message", handler),
);
