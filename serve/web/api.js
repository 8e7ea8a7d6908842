// The HTTP interface as the page uses it: one function per question; a problem document becomes an Error that shows well.

export class Problem extends Error {
  constructor(status, title, detail, requestId) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.requestId = requestId;
  }
}

const KIND_TEXTS = {
  401: "This service asks for an API key. Give one under Filters.",
  413: "That is too large for this service.",
  415: "That kind of file is not read here.",
  429: "The service is busy just now. Try again in a moment.",
  503: "The service is not ready yet. Try again in a moment.",
  504: "The answer took too long. Ask for fewer hits, or try again.",
};

let apiKey = "";

export function setKey(key) {
  apiKey = key.trim();
}

async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem(0, "The service cannot be reached", "Is it running, and is the network up?", "");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Problem(response.status, KIND_TEXTS[response.status] || told.title || response.statusText, told.detail || "", told.request_id || "");
}

export async function info() {
  return (await ask("v1/info")).json();
}

export async function search(body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask("v1/search", { method: "POST", headers, body: JSON.stringify(body) })).json();
}

// Thumbnails may need the key, which an <img> cannot send: so they are fetched and shown from a blob.
export async function thumbnail(path) {
  return (await ask(path.replace(/^\//, ""))).blob();
}

export function toBase64(buffer) {
  const bytes = new Uint8Array(buffer);
  const pieces = [];
  for (let at = 0; at < bytes.length; at += 0x8000) pieces.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  return btoa(pieces.join(""));
}
