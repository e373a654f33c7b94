// node browser.mjs CHROMIUM PROFILE URL: prints what page.html shows, and on standard error what the browser's console gets.
import { chromium } from "playwright-core";

const [executablePath, profile, url] = process.argv.slice(2);
const off = ["background-networking", "component-update", "gpu", "quic", "sync"].map((name) => `--disable-${name}`);
const options = { executablePath, headless: true, args: ["--no-sandbox", "--no-first-run", ...off] };
const context = await chromium.launchPersistentContext(profile, options);
try {
  const page = await context.newPage();
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(String(error)));
  await page.goto(url);
  await page.waitForSelector("pre[data-done]", { state: "attached", timeout: 100_000 });
  process.stdout.write(await page.textContent("pre"));
} finally {
  await context.close();
}
