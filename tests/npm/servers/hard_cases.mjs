// Servers that do what is hard to relay, on the official SDKs. Prints one line of JSON: its port.
//
// /v1      SDK 1.x, sessions: asks, reports and announces outside of the streams of calls
// /sse     the same over HTTP+SSE
// /v2      SDK 2.x, stateless
// /files   server-filesystem, which speaks over stdio alone, one process for each session
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { SSEServerTransport } from "@modelcontextprotocol/sdk/server/sse.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { SubscribeRequestSchema, UnsubscribeRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import * as v2 from "@modelcontextprotocol/server";
import { z } from "zod";

const FILESYSTEM = fileURLToPath(import.meta.resolve("@modelcontextprotocol/server-filesystem/dist/index.js"));
const PAD = "note://pad";
const PAGE = { mode: "url", message: "Please sign in.", url: "https://example.com/sign-in" };
const FORM = {
  message: "Who are you?",
  requestedSchema: { type: "object", properties: { name: { type: "string" } } },
};

const said = (text) => ({ content: [{ type: "text", text }] });
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// What servers of one path share: tools that were added while they run.
class Grown {
  constructor() {
    this.names = [];
    this.servers = new Set();
  }

  registerAll(server) {
    for (const name of this.names) this.register(server, name);
    this.servers.add(server);
    server.server.onclose = () => this.servers.delete(server);
  }

  register(server, name) {
    server.registerTool(name, { description: "Was added later." }, async () => said(name));
  }

  // Each session hears of it on the stream that it keeps open.
  add(name) {
    this.names.push(name);
    for (const server of this.servers) this.register(server, name);
  }
}

function ofSdk1(grown) {
  const server = new McpServer(
    { name: "typescript-1", version: "1" },
    { capabilities: { logging: {}, resources: { subscribe: true }, tools: { listChanged: true } } },
  );
  const inner = server.server;
  const tool = (name, input, run) =>
    server.registerTool(name, { description: name, inputSchema: input }, run);
  let memory = "nothing";

  tool("remember", { text: z.string() }, async ({ text }) => said((memory = text)));
  tool("recall", {}, async () => said(memory));
  // None of these names the call that it is for, so the SDK uses the session's own stream.
  tool("elicit", {}, async () => said((await inner.elicitInput(FORM)).content.name));
  tool("sample", {}, async () => {
    const messages = [{ role: "user", content: { type: "text", text: "Hello" } }];
    return said((await inner.createMessage({ messages, maxTokens: 9 })).content.text);
  });
  tool("list_roots", {}, async () => said((await inner.listRoots()).roots[0].uri));
  tool("log", {}, async () => {
    await server.sendLoggingMessage({ level: "warning", data: "written" });
    return said("logged");
  });
  tool("touch", {}, async () => {
    await inner.sendResourceUpdated({ uri: PAD });
    return said("touched");
  });
  tool("visit", {}, async () => {
    const elicitationId = randomUUID();
    const { action } = await inner.elicitInput({ ...PAGE, elicitationId });
    await inner.createElicitationCompletionNotifier(elicitationId)();
    return said(action);
  });
  tool("ask_and_go_on", {}, async (_, extra) => {
    extra.sendRequest({ method: "elicitation/create", params: FORM }, z.any()).catch(() => {});
    return said("not waited");
  });
  tool("grow", { name: z.string() }, async ({ name }) => {
    grown.add(name);
    return said(name);
  });
  tool("big", { characters: z.number() }, async ({ characters }) => said("x".repeat(characters)));
  tool("slow", {}, async () => {
    await pause(1500);
    return said("at last");
  });
  tool("break_off", {}, async () => said("never sent"));

  server.registerResource("pad", PAD, {}, async () => ({ contents: [{ uri: PAD, text: "" }] }));
  inner.setRequestHandler(SubscribeRequestSchema, async () => ({}));
  inner.setRequestHandler(UnsubscribeRequestSchema, async () => ({}));
  grown.registerAll(server);
  return server;
}

const sdk1 = new Grown();
const sse = new Grown();
const sessions = new Map();

// begin(transport): connects a new session's transport to what answers in it.
async function streamable(request, response, begin) {
  const id = request.headers["mcp-session-id"];
  let transport = sessions.get(id);
  if (!transport) {
    if (id) return response.writeHead(404).end();
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized: (made) => sessions.set(made, transport),
    });
    await begin(transport);
  }
  const body = request.method === "POST" ? await json(request) : undefined;
  if (body?.params?.name === "break_off") return response.destroy();
  return transport.handleRequest(request, response, body);
}

async function json(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}

async function beginFiles(transport) {
  const program = new StdioClientTransport({ command: process.execPath, args: [FILESYSTEM], stderr: "ignore" });
  transport.onmessage = (message) => program.send(message);
  program.onmessage = (message) => transport.send(message).catch(() => {});
  transport.onclose = () => program.close();
  await program.start();
}

async function overSse(request, response, path) {
  if (request.method === "GET") {
    const transport = new SSEServerTransport("/sse/messages", response);
    sessions.set(transport.sessionId, transport);
    return ofSdk1(sse).connect(transport);
  }
  return sessions.get(path.searchParams.get("sessionId")).handlePostMessage(request, response);
}

const later = [];

function ofSdk2() {
  const server = new v2.McpServer(
    { name: "typescript-2", version: "1" },
    { capabilities: { tools: { listChanged: true } } },
  );
  const tool = (name, inputSchema, run) =>
    server.registerTool(name, { description: name, inputSchema }, run);

  tool("visit", z.object({}), async (_, context) => {
    const answer = v2.inputResponse(context.mcpReq.inputResponses, "page");
    if (answer.kind === "elicit") return said(answer.action);
    return v2.inputRequired({ inputRequests: { page: v2.inputRequired.elicitUrl(PAGE) } });
  });
  tool("big", z.object({ characters: z.number() }), async ({ characters }) =>
    said("x".repeat(characters)),
  );
  tool("slow", z.object({}), async () => {
    await pause(1500);
    return said("at last");
  });
  tool("grow", z.object({ name: z.string() }), async ({ name }) => {
    later.push(name);
    sdk2.notify.toolsChanged();
    return said(name);
  });
  for (const name of later) tool(name, z.object({}), async () => said(name));
  return server;
}

const sdk2 = v2.createMcpHandler(ofSdk2, { legacy: "reject" });
const handleSdk2 = toNodeHandler(sdk2);

const http = createServer(async (request, response) => {
  const path = new URL(request.url, "http://localhost");
  try {
    switch (path.pathname) {
      case "/v1":
        return await streamable(request, response, (made) => ofSdk1(sdk1).connect(made));
      case "/files":
        return await streamable(request, response, beginFiles);
      case "/v2":
        return await handleSdk2(request, response);
      case "/sse":
      case "/sse/messages":
        return await overSse(request, response, path);
      default:
        response.writeHead(404).end();
    }
  } catch (error) {
    process.stderr.write(`${error.stack}\n`);
    response.headersSent ? response.destroy() : response.writeHead(500).end();
  }
});
http.listen(0, "127.0.0.1", () => {
  process.stdout.write(`${JSON.stringify({ port: http.address().port })}\n`);
});
