// The search page: gathers parts and wishes, asks, shows hits; a hit can be searched by, or steer the query as + or −.

import { info, search, setKey, toBase64 } from "./api.js";
import { Parts, pictureOf, pictureOfBytes, words } from "./parts.js";
import { Voice } from "./voice.js";

const TARGET_TEXTS = { pan: "PAN", ms: "Multispectral", rgb: "RGB", speech: "Speech" };
const at = (id) => document.getElementById(id);
const voice = new Voice();
const parts = new Parts(at("parts"), at("part-template"), showParts);
let asked = 0;

function showParts() {
  at("parts-empty").hidden = !parts.empty;
  at("search").disabled = parts.empty;
}

function showProblem(error) {
  const box = at("problem");
  box.hidden = error === null;
  if (error === null) return;
  const title = error.title || "That did not work";
  box.replaceChildren(Object.assign(document.createElement("strong"), { textContent: title }));
  if (error.message && error.message !== title) box.append(` — ${error.message}`);
  if (error.requestId) box.append(Object.assign(document.createElement("small"), { textContent: `request ${error.requestId}` }));
}

function targets() {
  return [...document.querySelectorAll("#targets input:checked")].map((box) => box.value);
}

function filters() {
  const wanted = {};
  for (const field of document.querySelectorAll("[data-filter]")) {
    const text = field.value.trim();
    if (text) wanted[field.dataset.filter] = "number" in field.dataset ? Number(text) : text;
  }
  const [from, to] = [at("f-from").value, at("f-to").value];
  if (from || to) wanted.datetime = `${from || ".."}/${to || ".."}`;
  return wanted;
}

function showFilterCount() {
  const count = Object.keys(filters()).length;
  at("filters-count").hidden = count === 0;
  at("filters-count").textContent = count;
}

async function ask() {
  if (parts.empty) return;
  const turn = ++asked;
  const wanted = filters();
  const body = { parts: parts.bodies(at("modality").value), k: Number(at("k").value) || 24 };
  if (targets().length) body.target = targets();
  if (Object.keys(wanted).length) body.filters = wanted;
  at("hits").classList.add("busy");
  at("hits").setAttribute("aria-busy", "true");
  showProblem(null);
  try {
    const answer = await search(body);
    if (turn === asked) showHits(answer);
  } catch (error) {
    if (turn === asked) {
      showProblem(error);
      at("summary").textContent = at("hits").children.length ? "The hits below are those of the query before." : "";
    }
  } finally {
    if (turn === asked) {
      at("hits").classList.remove("busy");
      at("hits").removeAttribute("aria-busy");
    }
  }
}

function showHits(answer) {
  at("start").hidden = true;
  at("hits").replaceChildren(...answer.hits.map(hitRow));
  const count = answer.hits.length;
  const unheard = answer.heard.find((heard) => heard.message);
  const said = unheard ? nothingHeard(unheard)
    : count === 0 ? "Nothing found. Widen the filters, or find another kind."
    : [...answer.heard.map(nameHeard), `${count} ${count === 1 ? "hit" : "hits"}`].join(" · ");
  at("summary").textContent = `${said} · ${Math.round(answer.timings_ms.total)} ms · gallery version ${answer.gallery_version}`;
}

function nameHeard(heard) {
  const ear = heard.by === "ear" ? " (second ear)" : "";
  return `heard “${heard.labels.map((near) => near.label).join(", ")}”${ear}`;
}

function nothingHeard(heard) {
  const nearest = heard.labels.map((near) => `${near.label}, ${near.score.toFixed(2)}`).join("; ");
  return `No known label heard (nearest: ${nearest}). Say one of the words of the list`;
}

function hitRow(hit) {
  const row = at("hit-template").content.firstElementChild.cloneNode(true);
  const name = hit.labels.join(", ") || hit.scene_class || hit.item_id;
  row.dataset.itemId = hit.item_id;
  row.classList.toggle("query", parts.has(hit.item_id));
  row.querySelector(".picture").append(pictureOf(hit));
  row.querySelector(".rank").textContent = `#${hit.rank}`;
  row.querySelector(".modality").textContent = hit.modality;
  row.querySelector(".modality").classList.add(hit.modality);
  row.querySelector(".score").textContent = hit.score.toFixed(3);
  row.querySelector(".bar span").style.width = `${Math.max(0, hit.score) * 100}%`;
  row.querySelector(".labels").append(...labelRows(hit));
  const date = hit.acquired_at ? hit.acquired_at.slice(0, 10) : "";
  row.querySelector(".where").textContent = [hit.sensor, date].filter(Boolean).join(" · ");
  row.querySelector(".where").title = hit.source_uri;
  const part = () => ({ kind: "item", name: `${hit.modality}: ${name}`, picture: pictureOf(hit), body: { item_id: hit.item_id } });
  const look = row.querySelector(".look");
  look.setAttribute("aria-label", `hit ${hit.rank}, ${hit.modality}, ${name}: search by it`);
  look.addEventListener("click", () => { parts.replace(part()); ask(); at("results").focus({ preventScroll: true }); });
  row.querySelector(".more").addEventListener("click", () => { parts.add(part()); ask(); });
  row.querySelector(".less").addEventListener("click", () => { parts.add(part(), -1); ask(); });
  return row;
}

function labelRows(hit) {
  const row = (text, kind) => Object.assign(document.createElement("li"), { textContent: text, className: kind });
  return [...hit.labels.map((label) => row(label, "")), ...(hit.scene_class ? [row(hit.scene_class, "class")] : [])];
}

async function addFile(kind, file) {
  const bytes = await file.arrayBuffer(); // once: the file itself may be gone when it is shown or sent
  const picture = kind === "image" ? pictureOfBytes(bytes, file.name) : words("♪");
  parts.add({ kind, name: file.name, picture, body: { data: toBase64(bytes) } });
  await ask();
}

async function toggleVoice() {
  if (voice.recording) return voice.stop();
  const button = at("record");
  try {
    const said = await voice.record(() => {
      button.setAttribute("aria-pressed", "true");
      at("record-text").textContent = "Stop";
    });
    await addFile("speech", new File([said], "your voice", { type: said.type }));
  } catch (error) {
    const denied = error.name === "NotAllowedError" || error.name === "NotFoundError";
    showProblem(Object.assign(new Error(denied ? "Allow it in the browser, or upload a sound." : error.message), { title: "The microphone cannot be used" }));
  } finally {
    button.setAttribute("aria-pressed", "false");
    at("record-text").textContent = "Speak";
  }
}

function wireSources() {
  for (const [id, kind] of [["image", "image"], ["sound", "speech"]]) {
    at(id).addEventListener("change", () => {
      const file = at(id).files[0];
      at(id).value = "";
      if (file) addFile(kind, file);
    });
  }
  at("record").addEventListener("click", toggleVoice);
  at("label").addEventListener("change", () => {
    const label = at("label").value;
    at("label").value = "";
    if (!label) return;
    parts.add({ kind: "label", name: label, picture: words("Aa"), body: { label } });
    ask();
  });
  const drop = at("drop");
  for (const type of ["dragenter", "dragover"]) drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) addFile(file.type.startsWith("audio/") ? "speech" : "image", file);
  });
}

function wireWishes() {
  at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  at("ask").addEventListener("input", showFilterCount);
  at("targets").addEventListener("change", ask);
  at("key").addEventListener("change", () => { setKey(at("key").value); showServed(); });
  at("clear").addEventListener("click", () => {
    asked += 1;
    parts.clear();
    showProblem(null);
    at("hits").replaceChildren();
    at("hits").classList.remove("busy");
    at("summary").textContent = "";
    at("start").hidden = false;
  });
}

async function showServed() {
  try {
    const served = await info();
    const counts = Object.entries(served.gallery.num_items).map(([modality, count]) => `${count.toLocaleString("en")} ${modality}`);
    at("served").textContent = counts.join(" · ");
    at("served").title = `space ${served.bundle.space_id}, gallery version ${served.gallery.version}, recall@10 ${served.gallery.recall_at_10}`;
    showChoices(served);
    showProblem(null);
  } catch (error) {
    at("served").textContent = "";
    showProblem(error);
  }
}

function showChoices(served) {
  const option = (label) => Object.assign(document.createElement("option"), { value: label, textContent: label });
  at("label").replaceChildren(Object.assign(option(""), { textContent: "a word…" }), ...served.bundle.labels.map(option));
  at("vocabulary").replaceChildren(...served.bundle.labels.map(option));
  const boxes = Object.keys(served.gallery.num_items).map((modality) => {
    const label = document.createElement("label");
    label.append(Object.assign(document.createElement("input"), { type: "checkbox", value: modality }), TARGET_TEXTS[modality] || modality);
    return label;
  });
  at("targets").replaceChildren(at("targets").querySelector("legend"), ...boxes);
}

wireSources();
wireWishes();
showParts();
showServed();
