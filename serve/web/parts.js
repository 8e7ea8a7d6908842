// The parts of the query: what each is, how it looks, its sign and weight.

import { thumbnail } from "./api.js";

export class Parts {
  constructor(list, template, onChange) {
    this.list = list;
    this.template = template;
    this.onChange = onChange;
    this.parts = [];
  }

  get empty() {
    return this.parts.length === 0;
  }

  replace(part) {
    this.parts = [];
    this.list.replaceChildren();
    this.add(part);
  }

  clear() {
    this.parts = [];
    this.list.replaceChildren();
    this.onChange();
  }

  // part: {kind, name, picture: Node, body: {data | item_id | label}}; sign 1 or -1
  add(part, sign = 1) {
    const held = { ...part, sign, weight: 1 };
    this.parts.push(held);
    this.list.append(this.#row(held));
    this.onChange();
  }

  has(itemId) {
    return this.parts.some((part) => part.kind === "item" && part.body.item_id === itemId);
  }

  bodies(modality) {
    return this.parts.map((part) => ({
      kind: part.kind,
      weight: part.sign * part.weight,
      ...part.body,
      ...(part.kind === "image" && modality ? { modality } : {}),
    }));
  }

  #row(part) {
    const row = this.template.content.firstElementChild.cloneNode(true);
    const [sign, output, slider] = [row.querySelector(".sign"), row.querySelector("output"), row.querySelector("input")];
    const show = () => {
      row.classList.toggle("negative", part.sign < 0);
      sign.textContent = part.sign < 0 ? "−" : "+";
      sign.setAttribute("aria-label", `${part.sign < 0 ? "less" : "more"} like ${part.name}; press to turn round`);
      output.textContent = part.weight.toFixed(1);
    };
    row.querySelector(".picture").append(part.picture);
    row.querySelector(".name").textContent = part.name;
    row.querySelector(".name").title = part.name;
    row.querySelector(".remove").setAttribute("aria-label", `remove ${part.name}`);
    slider.value = part.weight;
    slider.addEventListener("input", () => { part.weight = Number(slider.value); show(); });
    slider.addEventListener("change", () => this.onChange());
    sign.addEventListener("click", () => { part.sign = -part.sign; show(); this.onChange(); });
    row.querySelector(".remove").addEventListener("click", () => {
      this.parts = this.parts.filter((other) => other !== part);
      row.remove();
      this.onChange();
    });
    show();
    return row;
  }
}

// What a hit, a file or a word looks like: its thumbnail, or its words.
export function pictureOf(hit) {
  if (hit.thumbnail) {
    const image = new Image();
    image.alt = hit.labels.join(", ") || `${hit.modality} chip`;
    thumbnail(hit.thumbnail).then((blob) => { image.src = URL.createObjectURL(blob); }, () => image.replaceWith(words("no picture")));
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    return image;
  }
  return hit.modality === "speech" ? words(`“${hit.labels.join(", ") || "speech"}”`) : words("no picture");
}

export function words(text) {
  const span = document.createElement("span");
  span.className = "said";
  span.textContent = text;
  return span;
}

// A file that the browser can draw shows itself; one that it cannot (TIFF) its name's end.
export function pictureOfBytes(bytes, name) {
  const image = new Image();
  image.alt = name;
  image.src = URL.createObjectURL(new Blob([bytes]));
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  image.addEventListener("error", () => image.replaceWith(words(name.split(".").pop())), { once: true });
  return image;
}
