// Shows /openapi.json, and sends requests to this server. The page of a route has the route's operationId as its
// fragment. All texts become text nodes, so that nothing of the document or of a response is taken for markup.
"use strict";

/** The most characters of a response that are shown. */
const SHOWN_MAX = 200000;

const byId = (id) => document.getElementById(id);

/** Makes an element with attributes and children. A child that is a string becomes text; null is left out. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

let api = null;
let operations = [];

/** What a reference of the document stands for. */
function resolve(item) {
  while (item && item.$ref) {
    const keys = item.$ref.slice(2).split("/");
    item = keys.reduce((at, key) => at && at[key.replace(/~1/g, "/").replace(/~0/g, "~")], api);
  }
  return item || {};
}

/** The text with its `code` as elements. */
function prose(text) {
  const parts = (text || "").split("`");
  return parts.map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** A text of paragraphs and lists. */
function paragraphs(text) {
  return (text || "").split("\n\n").map((part) => {
    const items = part.split(/^- /m).slice(1);
    if (items.length) return make("ul", {}, items.map((item) => make("li", {}, prose(item))));
    return make("p", {}, prose(part));
  });
}

/** The type of a schema in a few words. */
function typeOf(schema) {
  if (schema === true || schema === undefined) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.oneOf || schema.anyOf;
  if (several) return several.map(typeOf).join(" or ");
  if (schema.allOf) return schema.allOf.map(typeOf).join(" and ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const types = [schema.type || "any"].flat();
  const named = types.map((type) => {
    if (type === "array") return "list of " + typeOf(schema.items);
    return schema.format && type !== "null" ? type + " (" + schema.format + ")" : type;
  });
  return named.join(" or ");
}

/** The schemas within a schema that have members of their own. */
function partsOf(schema) {
  if (!schema || schema === true) return [];
  if (schema.$ref) return partsOf(resolve(schema));
  const parts = schema.oneOf || schema.anyOf || schema.allOf;
  if (parts) return parts.flatMap(partsOf);
  if (schema.items) return partsOf(schema.items);
  if (schema.properties) return [schema];
  return partsOf(schema.additionalProperties);
}

/** The members of a schema as a list. Members with members of their own open on demand. */
function members(schema) {
  const parts = partsOf(schema);
  const lists = parts.map((part) => {
    const required = new Set(part.required);
    const items = Object.entries(part.properties).map(([name, property]) => {
      const line = [
        make("code", {}, name), " ",
        make("span", { class: "quiet" }, typeOf(property) + (required.has(name) ? "" : ", may be missing")),
      ];
      const text = property.description || resolve(property).description;
      const about = text ? make("p", {}, prose(text)) : null;
      if (!partsOf(property).length) return make("li", {}, line, about);
      const details = make("details", {}, make("summary", {}, line), about);
      details.addEventListener("toggle", () => details.append(...members(property)), { once: true });
      return make("li", {}, details);
    });
    return make("ul", { class: "schema" }, items);
  });
  return lists;
}

/** A text with its line breaks, which those who have no mouse can scroll. */
function textBox(label, text) {
  return make("pre", { role: "group", tabindex: "0", "aria-label": label }, text);
}

/** A body: its schema and its example. */
function content(body) {
  return Object.entries(body.content || {}).map(([type, media]) => {
    const schema = media.schema;
    const parts = [make("p", {}, make("code", {}, type), " ", make("span", { class: "quiet" }, typeOf(schema)))];
    parts.push(...members(schema));
    if (media.example !== undefined) {
      const text = JSON.stringify(media.example, null, 2);
      parts.push(make("details", {}, make("summary", {}, "Example"), textBox("An example", text)));
    }
    return make("div", {}, parts);
  });
}

function parameterTable(parameters) {
  if (!parameters.length) return [];
  const rows = parameters.map((parameter) =>
    make("tr", {},
      make("td", {}, make("code", {}, parameter.name)),
      make("td", {}, parameter.in + (parameter.required ? ", required" : "")),
      make("td", {}, typeOf(parameter.schema)),
      make("td", {}, make("p", {}, prose(parameter.description)))));
  const head = ["Name", "In", "Type", "Meaning"].map((text) => make("th", { scope: "col" }, text));
  return [
    make("h3", {}, "Parameters"),
    make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)),
  ];
}

function responseList(operation) {
  const entries = Object.entries(operation.responses).map(([status, reference]) => {
    const response = resolve(reference);
    const summary = make("summary", {}, make("code", {}, status), " ", prose(response.description));
    return make("details", {}, summary, content(response));
  });
  return [make("h3", {}, "Responses"), ...entries];
}

/** The form that sends a request to this server. */
function tryIt({ method, path, operation, parameters }) {
  if (operation.servers) return [];
  const fields = parameters.map((parameter) => {
    const example = parameter.in === "path" ? parameter.example || "" : "";
    const id = "field-" + parameter.name;
    const input = make("input", { id, value: example, autocomplete: "off", spellcheck: "false" });
    if (parameter.required) input.required = true;
    return { parameter, input, row: make("div", {}, make("label", { for: id }, parameter.name), input) };
  });
  const media = operation.requestBody && operation.requestBody.content["application/json"];
  const body = media ? make("textarea", { id: "field-body", spellcheck: "false" }) : null;
  if (body && media.example) body.value = JSON.stringify(media.example, null, 2);
  // It is read aloud; the content of the response, which may be long, is not.
  const outcome = make("p", { role: "status" });
  const output = textBox("The response", "");
  output.hidden = true;
  const button = make("button", {}, "Send");
  const form = make("form", {}, fields.map((field) => field.row),
    body && make("div", {}, make("label", { for: "field-body" }, "Body"), body), button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    // It stays where the focus can be.
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    await send(request(method, path, fields, body), outcome, output);
    button.ariaDisabled = null;
  });
  return [make("h3", {}, "Send a request"), form, outcome, output];
}

/** The URL and the options of a request with the values of the form. */
function request(method, path, fields, body) {
  const query = new URLSearchParams();
  const headers = {};
  let url = path;
  for (const { parameter, input } of fields) {
    const value = input.value;
    if (parameter.in === "path") url = url.replace("{" + parameter.name + "}", encodeURIComponent(value));
    else if (value === "") continue;
    else if (parameter.in === "header") headers[parameter.name] = value;
    else if ([parameter.schema.type].flat().includes("array")) value.split(",").forEach((one) => query.append(parameter.name, one.trim()));
    else query.append(parameter.name, value);
  }
  if (body && body.value) headers["content-type"] = "application/json";
  if (query.size) url += "?" + query;
  return { url, options: { method: method.toUpperCase(), headers, body: body && body.value ? body.value : undefined } };
}

/** Sends a request, and shows what came of it in a line and the content of the response below. */
async function send({ url, options }, outcome, output) {
  const sent = options.method + " " + url;
  const say = (tone, text) => {
    outcome.className = tone;
    outcome.textContent = sent + ": " + text;
  };
  output.hidden = true;
  output.textContent = "";
  say("quiet", "sent");
  const begun = performance.now();
  try {
    const response = await fetch(url, options);
    const tone = response.ok ? "good" : "bad";
    const status = (response.status + " " + response.statusText).trim();
    say(tone, status);
    // Read piece by piece: an event stream does not end soon.
    let text = "";
    const reader = response.body && response.body.pipeThrough(new TextDecoderStream()).getReader();
    while (reader && text.length < SHOWN_MAX) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      output.hidden = false;
      output.textContent = text;
      if (!output.isConnected) break;
    }
    if (reader) reader.cancel().catch(() => {});
    output.textContent = pretty(text.slice(0, SHOWN_MAX), response.headers.get("content-type") || "");
    say(tone, status + ", " + Math.round(performance.now() - begun) + " ms");
  } catch (error) {
    say("bad", "the server did not answer: " + error.message);
  }
}

/** JSON with line breaks. Whole numbers above 2^53 are rounded. */
function pretty(text, type) {
  if (!type.includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function showOperation(entry) {
  const { method, path, operation, parameters } = entry;
  const access = operation["x-access"] || {};
  const server = operation.servers ? " On " + operation.servers[0].description : "";
  const body = operation.requestBody;
  const optional = body && !body.required ? " (may be left out)" : "";
  byId("main").replaceChildren(
    make("h2", {}, make("span", { class: "method" }, method.toUpperCase()), " ", path),
    make("p", {}, prose(operation.summary + "." + server)),
    ...paragraphs(operation.description),
    make("p", { class: "quiet" }, "Role: " + access.role + ". Class: " + access.class + ". Name: " + operation.operationId + "."),
    ...parameterTable(parameters),
    ...(body ? [make("h3", {}, "Body" + optional), ...content(body)] : []),
    ...responseList(operation),
    ...tryIt(entry));
  document.title = method.toUpperCase() + " " + path + " – Headroom API";
}

function showOverview() {
  byId("main").replaceChildren(
    make("h2", {}, api.info.title + " " + api.info.version),
    ...paragraphs(api.info.description),
    make("p", {}, "The document: ", make("a", { href: "/openapi.json" }, "/openapi.json")));
  document.title = "Headroom API";
}

/** Shows what the fragment names. */
function show() {
  const id = location.hash.slice(1);
  const entry = operations.find(({ operation }) => operation.operationId === id);
  if (entry) showOperation(entry);
  else showOverview();
  markCurrent();
}

/** Marks what the fragment names in the list of routes. */
function markCurrent() {
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === location.hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function list() {
  const wanted = byId("filter").value.toLowerCase();
  const groups = new Map();
  for (const { method, path, operation } of operations) {
    const text = (method + " " + path + " " + operation.summary).toLowerCase();
    if (!text.includes(wanted)) continue;
    const tag = operation.tags[0];
    if (!groups.has(tag)) groups.set(tag, []);
    const link = make("a", { href: "#" + operation.operationId, title: operation.summary },
      make("span", { class: "method" }, method.toUpperCase()), make("span", {}, path));
    groups.get(tag).push(make("li", {}, link));
  }
  const sections = [...groups].map(([tag, items]) => make("section", {}, make("h2", {}, tag), make("ul", {}, items)));
  byId("routes").replaceChildren(...sections);
  const count = [...groups.values()].flat().length;
  byId("count").textContent = count === 1 ? "1 route" : count + " routes";
}

async function start() {
  try {
    const response = await fetch("/openapi.json");
    if (!response.ok) throw new Error("status " + response.status);
    api = await response.json();
  } catch (error) {
    byId("state").textContent = "/openapi.json cannot be read: " + error.message;
    return;
  }
  operations = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => {
      const parameters = (operation.parameters || []).map(resolve);
      return { method, path, operation, parameters };
    }));
  byId("version").textContent = "Version " + api.info.version;
  byId("filter").addEventListener("input", () => { list(); markCurrent(); });
  addEventListener("hashchange", () => { show(); byId("main").focus(); scrollTo(0, 0); });
  list();
  show();
}

start();
