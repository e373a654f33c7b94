// node pipeline.mjs DIR TEXT…: prints the labels of a classification that was exported with --layout transformersjs.
import path from "node:path";
import { pipeline } from "@huggingface/transformers";

const [folder, ...texts] = process.argv.slice(2);
const classify = await pipeline("text-classification", path.resolve(folder), { local_files_only: true });
const found = [];
for (const text of texts) found.push(...(await classify(text))); // one by one: the logits of some models depend on the padding of a batch
console.log(JSON.stringify(found));
