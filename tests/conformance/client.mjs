// What the suite runs as a client: passes the scenario on to the tests, and ends as they say.
//
// The tests have what a client needs here, a registry and its users; starting another Python with
// the SDK for each scenario would take longer than the scenarios.
// Arguments: where scenarios are played, and the URL of the suite's server.

import { env, argv, exit } from 'node:process';

const [control, url] = argv.slice(2);
const answer = await fetch(control, {
  method: 'POST',
  body: JSON.stringify({
    name: env.MCP_CONFORMANCE_SCENARIO,
    revision: env.MCP_CONFORMANCE_PROTOCOL_VERSION,
    context: JSON.parse(env.MCP_CONFORMANCE_CONTEXT ?? '{}'),
    url,
  }),
});
const outcome = await answer.json();
console.log(outcome.said);
exit(outcome.code);
