// node pipeline.mjs DIR INPUT…: prints what the pipeline of a folder that was exported with --layout transformersjs finds for each
// input: a text, for questions a question and then its context, for images a file.
import { readFileSync } from "node:fs";
import path from "node:path";
import { pipeline } from "@huggingface/transformers";

const PIPELINES = {
  classification: "text-classification", multilabel: "text-classification", tagging: "token-classification",
  question_answering: "question-answering", masked_lm: "fill-mask", hidden_states: "feature-extraction",
};
const [folder, ...given] = process.argv.slice(2);
const { inputs, tasks: [{ name, head }] } = JSON.parse(readFileSync(path.join(folder, "adapterdrop.json")));
const task = inputs[0].name === "pixel_values" ? "image-classification" : PIPELINES[head];
if (!task) throw new Error(`${name} is a task of the type ${head}, which this example does not show: run labels.mjs`);
const find = await pipeline(task, path.resolve(folder), { local_files_only: true });
const found = [];
const step = head === "question_answering" ? 2 : 1;
for (let index = 0; index < given.length; index += step) { // one by one: the logits of some models depend on the padding of a batch
  const options = head === "multilabel" ? [{ top_k: null }] : []; // the probabilities of all labels
  const result = await find(...given.slice(index, index + step), ...options);
  found.push(head === "hidden_states" ? result.tolist() : result); // numbers in place of a tensor
}
console.log(JSON.stringify(head === "classification" ? found.flat() : found));
