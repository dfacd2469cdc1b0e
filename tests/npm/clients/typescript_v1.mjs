// The TypeScript SDK before it was split; it knows the handshake alone.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CallToolResultSchema,
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { converseWithHardCases, oneBrokenStream } from "./hard_cases.mjs";
import * as shared from "./conversation.mjs";

const client = new Client(
  { name: "typescript-v1", version: "1" },
  { capabilities: shared.capabilities },
);
client.setRequestHandler(ElicitRequestSchema, ({ params }) => shared.elicited(params));
client.setRequestHandler(CreateMessageRequestSchema, () => shared.sampled);
client.setRequestHandler(ListRootsRequestSchema, () => shared.roots);
const requestInit = { headers: shared.headers };
const isHard = shared.options.parts !== undefined;
const fetch = isHard ? oneBrokenStream() : undefined;
await client.connect(
  new StreamableHTTPClientTransport(new URL(shared.options.url), { requestInit, fetch }),
);
const call = (params, options) => client.callTool(params, CallToolResultSchema, options);
if (isHard) await converseWithHardCases(client, call, false);
await shared.converse(client, call, (handler) =>
  client.setNotificationHandler(LoggingMessageNotificationSchema, handler),
);
