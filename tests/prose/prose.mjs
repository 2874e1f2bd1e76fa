// Reads Markdown files and names each sentence that is wrong or has to be read twice.
//   node tests/prose/prose.mjs README.md docs/*.md
// Exit status: 0 if nothing was found, 1 otherwise.
import fs from "node:fs";
import { Dialect, LocalLinter } from "harper.js";
import { binary } from "harper.js/binary";

// Rules of harper.js that do not fit these pages. Every other rule is on.
const OFF = [
  // headings are sentences, and a table's cells begin in lower case
  "UseTitleCase", "SentenceCapitalization",
  // British lists have no comma before "and", nor is one needed after "Otherwise"
  "OxfordComma", "DiscourseMarkers",
  // units and keys: 5 ms, 5 min, 64 KiB, Ctrl-C
  "ExpandTimeShorthands", "ExpandMinimum", "ExpandMemoryShorthands", "ExpandControl", "NumericRangeEnDash",
  // they take words of this field apart or together: dataclass, addBulk, stack trace, cron job, hash tag
  "SplitWords", "MergeWords", "CompoundNouns", "DisjointPrefixes", "PhrasalVerbAsCompoundNoun",
  // names of programs are written as their commands are: ffmpeg, numpy
  "OrthographicConsistency",
  // they take a word for another one: "may" for the month, "a middleware" for a substance, "to" for "too"
  "Months", "MassNouns", "ToTwoToo", "ItsContraction", "PronounKnew", "MissingTo", "MissingPreposition",
  "HavePronoun", "SingleBe", "ThatThan", "EllipsisLength", "ThereToTheir", "CallThem",
];

// What a reader stumbles over, and what to write instead.
const STUMBLES = [
  [/\bwaked\b/i, "woken"],
  [/\bfor who\b/i, "for those who"],
  [/\bnone of (?:it|them) is\b/i, "say what it is not"],
  [/\bis to become\b/i, "becomes"],
  [/\ball that is\b/i, "name the thing"],
  [/\b(?:simply|obviously|of course|just)\b(?! (?:in time|as|before|after|now|under|over))/i, "nothing: the word helps nobody"],
  [/\bin order to\b/i, "to"],
  [/\bdue to the fact that\b/i, "because"],
  [/\butili[sz]e/i, "use"],
  [/\bthe (?:latter|former)\b/i, "the thing's name"],
  [/\bghosts?\b|\bdoz(?:e|es|ing)\b|\bforgiv(?:e|es|en)\b/i, "what happens, in the field's words"],
  [/\bwhitelist|\bblacklist/i, "allow list, deny list"],
];

const words = fs.readFileSync(new URL("words.txt", import.meta.url), "utf8")
  .split("\n").filter((line) => line && !line.startsWith("#"));

const linter = new LocalLinter({ binary, dialect: Dialect.British });
await linter.setup();
await linter.importWords(words.flatMap((word) => [word, `${word}'s`]));
await linter.setLintConfig({
  ...(await linter.getDefaultLintConfig()),
  ...Object.fromEntries(OFF.map((rule) => [rule, false])),
});

// Code, paths and comments are not prose. They keep their length, so that positions stay true.
function proseOf(text) {
  const blank = (match) => match.replace(/[^\n]/g, " ");
  return text
    .replace(/^(```|~~~)[\s\S]*?^\1.*$/gm, blank)
    .replace(/<!-- (?:make bench writes|the suite's own table)[\s\S]*?<!-- (?:to here|end of the table) -->/g, blank)
    .replace(/<!--[\s\S]*?-->/g, blank)
    .replace(/(?<=\b[a-zA-Z])\.(?=\s|$)/gm, "!") // a sentence that ends in a unit, which is no abbreviation
    .replace(/^:::.*(?:\n {4}.*)*$/gm, blank)
    .replace(/\[(?:`[^`]*`|[^\]\s]*[./_][^\]\s]*)\]\([^)\s]*\)/g, (match) => `\`${"x".repeat(match.length - 2)}\``);
}

let found = 0;
for (const path of process.argv.slice(2)) {
  const text = proseOf(fs.readFileSync(path, "utf8"));
  const report = (start, rule, problem, message) => {
    found += 1;
    const line = text.slice(0, start).split("\n").length;
    console.log(`${path}:${line}: ${JSON.stringify(problem.slice(0, 100))}: ${message} (${rule})`);
  };
  for (const [rule, lints] of Object.entries(await linter.organizedLints(text, { language: "markdown" }))) {
    for (const lint of lints) report(lint.span().start, rule, lint.get_problem_text(), lint.message());
  }
  const bare = text.replace(/`[^`\n]*`/g, (match) => " ".repeat(match.length));
  for (const [pattern, instead] of STUMBLES) {
    for (const match of bare.matchAll(new RegExp(pattern, "gi"))) {
      report(match.index, "ours", match[0], `write instead: ${instead}`);
    }
  }
}
console.log(found ? `${found} found` : `${process.argv.length - 2} pages read, nothing found`);
process.exitCode = found ? 1 : 0;
