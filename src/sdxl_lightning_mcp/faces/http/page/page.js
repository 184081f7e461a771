"use strict";

const form = document.getElementById("form");
const told = (id, text) => { document.getElementById(id).textContent = text; };

function wish() {
  const input = {};
  for (const field of form.elements) {
    if (!field.name || field.name === "key" || field.value.trim() === "") continue;
    input[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return input;
}

function headers() {
  const found = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
  if (form.elements.key) found.Authorization = `Bearer ${form.elements.key.value}`;
  return found;
}

async function call(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail ?? `HTTP ${answer.status}`);
  return body;
}

async function draw() {
  const sent = headers();
  let run = await call(`/v1/models/${form.dataset.model}/runs`, {
    method: "POST", headers: sent, body: JSON.stringify({ input: wish() }),
  });
  while (["queued", "running"].includes(run.status_code)) {
    told("status", run.progress.message);
    await new Promise((resolve) => setTimeout(resolve, 300));
    run = await call(`/v1/runs/${run.id}`, { headers: sent });
  }
  if (run.status_code !== "succeeded") throw new Error(run.failure_message ?? run.status_code);
  return run;
}

function show(run) {
  const picture = document.getElementById("picture");
  const link = new URL(run.output.outputs[0].url);
  picture.src = link.pathname + link.search;
  picture.alt = run.input.prompt;
  const facts = `seed ${run.output.seed}, ${run.input.width}x${run.input.height}, ` +
    `${run.input.steps} steps, ${(run.duration_ms / 1000).toFixed(2)} s`;
  told("facts", [facts, ...run.notes].join(". "));
  document.getElementById("result").hidden = false;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  told("error", "");
  told("status", "asking");
  try {
    show(await draw());
    told("status", "done");
  } catch (error) {
    told("status", "");
    told("error", error.message);
  } finally {
    button.disabled = false;
  }
});
