// One call with progress and one that is canceled, by a client of the TypeScript SDK.
//
// node client.cjs MODULES sdk|client COMMAND...    prints what came of it as JSON
"use strict";
const { createRequire } = require("node:module");
const [modules, generation, command, ...args] = process.argv.slice(2);
const need = createRequire(`${modules}/`);

const v1 = generation === "sdk";
const name = `@modelcontextprotocol/${generation}`;
const { Client } = need(v1 ? `${name}/client/index.js` : name);
const { StdioClientTransport } = need(v1 ? `${name}/client/stdio.js` : `${name}/stdio`);
const SMALL = { prompt: "the sea", seed: 7, width: 512, height: 512 };
const LARGE = { prompt: "the sea", width: 1536, height: 1024, steps: 12 };

async function main() {
  const options = v1 ? {} : { versionNegotiation: { mode: "auto" } };
  const client = new Client({ name: "test", version: "1" }, options);
  await client.connect(new StdioClientTransport({ command, args, env: process.env }));
  const call = (wish, settings) => {
    const params = { name: "generate_image", arguments: wish };
    return v1 ? client.callTool(params, undefined, settings) : client.callTool(params, settings);
  };
  const progress = [];
  const drawn = await call(SMALL, { onprogress: (told) => progress.push(told) });
  const stopping = new AbortController();
  const onprogress = ({ message }) => message === "step 1 of 12" && stopping.abort("enough");
  const refused = await call(LARGE, { onprogress, signal: stopping.signal }).catch(String);
  // The next one waits until the device is free again.
  const next = await call(SMALL, {});
  const runs = await client.readResource({ uri: "sdxl-lightning://runs" });
  console.log(JSON.stringify({
    progress,
    refused,
    kinds: drawn.content.map(({ type }) => type),
    next: next.isError ?? false,
    statuses: JSON.parse(runs.contents[0].text).map(({ status }) => status),
    version: client.getNegotiatedProtocolVersion?.() ?? null,
  }));
  await client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
