// A person with a browser: opens an authorization link, presses the button, and decides.
//
// Argument, as JSON: `link`; `user` and `decision` (`allow` or `deny`) for the consent page;
// `scripts`, whether pages may run scripts; `folder`, where pictures of the pages go; `browser`, the
// path of a Chromium, or empty for the packaged one. Prints what was seen as one line of JSON.

import { join } from 'node:path';
import packaged from '@sparticuz/chromium';
import { chromium } from 'playwright-core';

const asked = JSON.parse(process.argv[2]);
const browser = await chromium.launch({
  executablePath: asked.browser || (await packaged.executablePath()),
  // As root there is no sandbox; the packaged browser has no other processes to start.
  args: ['--no-sandbox', ...(asked.browser ? [] : ['--single-process', '--no-zygote'])],
});
const context = await browser.newContext({ javaScriptEnabled: asked.scripts });
const page = await context.newPage();
const complaints = [];
page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
page.on('pageerror', (error) => complaints.push(error.message));

const seen = { pages: [] };
async function look() {
  seen.pages.push({ title: await page.title(), text: await page.innerText('body') });
  await page.screenshot({ path: join(asked.folder, `page-${seen.pages.length}.png`) });
}

await page.goto(asked.link);
await look();
const button = page.locator('button[type=submit]');
if (await button.count()) {
  await button.click();
  await page.locator('#allow').waitFor();
  await look();
  await page.fill('input[name=user]', asked.user);
  await page.click(`#${asked.decision}`);
  await page.waitForURL('**/oauth/callback**');
  await look();
}
seen.cookies = (await context.cookies()).map(({ httpOnly, sameSite, path }) => ({ httpOnly, sameSite, path }));
seen.complaints = complaints;
console.log(JSON.stringify(seen));
await browser.close();
process.exit(0);
