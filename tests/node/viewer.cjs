// The viewer in a host: ext-apps' own bridge between the page and our server, a picture and clicks.
//
// node viewer.cjs MODULES COMMAND...    prints what the page showed as JSON
"use strict";
const { createRequire } = require("node:module");
const [modules, command, ...args] = process.argv.slice(2);
const need = createRequire(`${modules}/`);
const { AppBridge } = need("@modelcontextprotocol/ext-apps/app-bridge");
const { Client } = need("@modelcontextprotocol/client");
const { StdioClientTransport } = need("@modelcontextprotocol/client/stdio");
const { JSDOM, VirtualConsole } = need("jsdom");

const WISH = { prompt: "the <b>sea</b>", seed: 2 ** 32 - 1, width: 512, height: 512 };

/* The page on its own, what it posts to its parent and what it is posted. jsdom has no layout. */
function open(html) {
  const transport = { start: async () => {}, close: async () => {} };
  const errors = [];
  const virtualConsole = new VirtualConsole().on("jsdomError", (error) => errors.push(String(error)));
  const { window } = new JSDOM(html, {
    runScripts: "dangerously",
    virtualConsole,
    beforeParse(window) {
      window.ResizeObserver = class { observe() {} };
      window.postMessage = (message) => setImmediate(() => transport.onmessage(message));
    },
  });
  transport.send = async (data) => {
    // As structured clones arrive: of the page's own kind. The page is its own parent here.
    const copy = window.JSON.parse(JSON.stringify(data));
    window.dispatchEvent(new window.MessageEvent("message", { data: copy, source: window }));
  };
  return { window, transport, errors };
}

async function main() {
  const client = new Client({ name: "host", version: "1" }, { versionNegotiation: { mode: "auto" } });
  await client.connect(new StdioClientTransport({ command, args, env: process.env }));
  const { tools } = await client.listTools();
  const uri = tools.find(({ name }) => name === "generate_image")._meta.ui.resourceUri;
  const page = (await client.readResource({ uri })).contents[0];
  const bridge = new AppBridge(client, { name: "host", version: "1" }, {
    serverTools: {},
    updateModelContext: { text: {} },
  });
  const told = [];
  bridge.onupdatemodelcontext = async ({ content }) => {
    told.push(content[0].text);
    return {};
  };
  const ready = new Promise((resolve) => { bridge.oninitialized = resolve; });
  const { window, transport, errors } = open(page.text);
  const at = (id) => window.document.getElementById(id);
  const changed = (what) => new Promise((resolve) => {
    const observer = new window.MutationObserver(() => {
      if (what()) {
        observer.disconnect();
        resolve();
      }
    });
    observer.observe(window.document, { subtree: true, childList: true, attributes: true });
  });
  const shown = () => ({
    facts: at("facts").textContent,
    state: at("state").textContent,
    picture: at("picture").src.slice(0, 23),
    bold: window.document.querySelectorAll("b").length,
    tools: !at("tools").hidden,
    size: at("size").value,
    alt: at("picture").alt,
  });
  const settled = (before) => changed(() => at("facts").textContent !== before && !at("again").disabled);

  await bridge.connect(transport);
  await ready;
  await bridge.sendToolInput({ arguments: WISH });
  const first = settled("");
  await bridge.sendToolResult(await client.callTool({ name: "generate_image", arguments: WISH }));
  await first;
  const steps = [shown()];
  for (const act of [
    () => at("variation").click(),
    () => at("again").click(),
    () => {
      at("size").value = "768x768";
      at("size").dispatchEvent(new window.Event("change"));
    },
  ]) {
    const done = settled(at("facts").textContent);
    act();
    await done;
    steps.push(shown());
  }
  const refused = changed(() => at("state").textContent.includes("allowed"));
  await bridge.sendToolResult(
    await client.callTool({ name: "generate_image", arguments: { prompt: "" } }),
  );
  await refused;
  steps.push(shown());
  console.log(JSON.stringify({ steps, told, errors }));
  window.close();
  await client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
