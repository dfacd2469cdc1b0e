// What a client of either TypeScript SDK does with a server, and what it saw.
// Usage of the programs: node <program>.mjs '{"url":…,"token":…,"mode":…,"prefix":…}'

const LOGGED = { "io.modelcontextprotocol/logLevel": "info" };

export const options = JSON.parse(process.argv[2]);
export const headers = {
  Authorization: `Bearer ${options.token}`,
  // Clients without sessions that one person runs side by side.
  ...(options.conversation && { "X-Conversation-Id": options.conversation }),
};
export const capabilities = { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} };
// What was asked of the user, and what an answer waits for.
export const asked = [];
export const answering = { when: Promise.resolve() };

export async function elicited(params) {
  asked.push(params);
  await answering.when;
  if (params.mode === "url") return { action: "accept" };
  const content = {};
  for (const name of Object.keys(params.requestedSchema.properties)) {
    content[name] = options.entered[name];
  }
  return { action: "accept", content };
}

export const sampled = {
  role: "assistant",
  model: "a-model",
  content: { type: "text", text: options.sampled },
};
export const roots = { roots: [{ uri: options.root }] };

// client: connected. call(params, requestOptions): calls a tool. onLog(handler): sets a handler.
export async function converse(client, call, onLog) {
  const named = (name) => options.prefix + name;
  const plain = (item) => item.name.slice(options.prefix.length);
  const say = async (name, args = {}, requestOptions = {}) =>
    (await call({ name: named(name), arguments: args }, requestOptions)).content[0].text;
  const report = {};

  report.tools = (await client.listTools()).tools.map(plain).sort();
  report.echo = await say("test_echo", { text: "hello" });

  report.progress = [];
  const onprogress = ({ progress }) => report.progress.push(progress);
  await say("test_tool_with_progress", {}, { onprogress });

  const abort = new AbortController();
  report.cancelled = await say("test_wait", {}, {
    signal: abort.signal,
    onprogress: () => abort.abort(),
  }).then(() => false, () => true);

  report.prompts = (await client.listPrompts()).prompts.map(plain).sort();
  const prompt = await client.getPrompt({
    name: named("test_prompt_with_arguments"),
    arguments: { arg1: "a", arg2: "b" },
  });
  report.prompt = prompt.messages[0].content.text;
  const asking = await client.getPrompt({ name: named("test_input_required_result_prompt") });
  report.asking_prompt = asking.messages[0].content.text;
  const completed = await client.complete({
    ref: { type: "ref/prompt", name: named("test_prompt_with_arguments") },
    argument: { name: "arg1", value: "pa" },
  });
  report.completed = completed.completion.values;

  report.resources = (await client.listResources()).resources.map((item) => item.uri).sort();
  report.templates = (await client.listResourceTemplates()).resourceTemplates.map(
    (item) => item.uriTemplate,
  );
  const read = await client.readResource({ uri: "test://static-text" });
  report.resource = read.contents[0].text;

  report.elicited = await say("test_elicitation", { message: "Who are you?" });
  report.sampled = await say("test_sampling", { prompt: "Say something." });
  report.roots = await say("test_input_required_result_list_roots");
  report.rounds = await say("test_input_required_result_multi_round");

  report.logged = 0;
  onLog(() => (report.logged += 1));
  await call({ name: named("test_tool_with_logging"), arguments: {}, _meta: LOGGED }, {});

  await client.close();
  process.stdout.write(`${JSON.stringify(report)}\n`);
  // Whatever is still open must not keep the program.
  process.exit(0);
}
