// Drives the page as an analyst would and prints what it saw as one line of JSON.
// node page.mjs URL FOLDER CHROMIUM

import { chromium } from "playwright-core";

const [url, folder, executablePath] = process.argv.slice(2);
const args = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", `--use-file-for-fake-audio-capture=${folder}/voice.wav`];
const browser = await chromium.launch({ executablePath, args });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const told = { violations: [] };
page.on("console", (message) => { if (/Content Security Policy|Refused/.test(message.text())) told.violations.push(message.text()); });
page.on("pageerror", (error) => told.violations.push(error.message));

const texts = (selector) => page.$$eval(selector, (nodes) => nodes.map((node) => node.textContent.trim()));
const ids = () => page.$$eval(".hit", (nodes) => nodes.map((node) => node.dataset.itemId));
async function answered(act) {
  const [response] = await Promise.all([page.waitForResponse((one) => one.url().endsWith("/v1/search")), act()]);
  await page.waitForFunction(() => !document.querySelector("#hits.busy"));
  return { status: response.status(), body: response.request().postDataJSON() };
}

await page.goto(url);
await page.waitForSelector("#targets label");
told.served = await page.textContent("#served");
told.labels = await texts("#label option");
told.targets = await page.$$eval("#targets input", (boxes) => boxes.map((box) => box.value));

await answered(() => page.setInputFiles("#image", `${folder}/chip.png`));
told.by_image = [(await ids())[0], (await texts(".hit .modality"))[0]];
await answered(() => page.check("#targets input[value=ms]"));
told.only_ms = [...new Set(await texts(".hit .modality"))];
told.clicked = (await ids())[2];
await answered(() => page.locator(".hit .look").nth(2).click());
told.parts_after_click = (await page.$$(".part")).length;
told.first_after_click = (await ids())[0];
const minus = await answered(() => page.locator(".hit .less").nth(4).click());
told.sent_with_minus = minus.body.parts.map((part) => part.weight);

await page.click("#clear");
const label = await answered(() => page.selectOption("#label", "airplane"));
told.by_label_parts = label.body.parts.map((part) => part.kind);
await answered(() => page.uncheck("#targets input[value=ms]"));
await answered(() => page.check("#targets input[value=speech]"));
told.said = (await texts(".hit .said")).find((text) => text === "“airplane”") || "";

await page.click("#clear");
told.voice_pressed = [];
const voice = await answered(async () => {
  await page.click("#record");
  await page.waitForSelector("#record[aria-pressed=true]");
  told.voice_pressed.push(await page.getAttribute("#record", "aria-pressed"));
  await page.waitForTimeout(1200);
  await page.click("#record");
});
await page.waitForSelector("#record[aria-pressed=false]");
told.voice_pressed.push(await page.getAttribute("#record", "aria-pressed"));
told.voice_kind = voice.body.parts[0].kind;
told.voice_status = voice.status;

await page.click("details.filters summary");
await page.fill("#f-bbox", "1,2,3");
await answered(() => page.click("#search"));
told.problem = await page.textContent("#problem");
await page.fill("#f-bbox", "");
await answered(() => page.click("#search"));
told.problem_after = await page.isHidden("#problem");

await page.locator(".hit .look").first().focus();
await answered(() => page.keyboard.press("Enter"));
told.keyboard_hit = (await page.$$(".part")).length === 1;
told.unlabelled = await page.$$eval("button, input, select, textarea", (nodes) =>
  nodes.filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && node.labels.length))).map((node) => node.outerHTML));
await page.setViewportSize({ width: 390, height: 844 });
told.overflow_phone = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
await browser.close();
console.log(JSON.stringify(told));
