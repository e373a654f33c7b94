// node labels.mjs DIR TEXT…: prints the label of every classification for each text, with onnxruntime-node.
import { readFileSync } from "node:fs";
import path from "node:path";
import { AutoTokenizer } from "@huggingface/transformers";
import ort from "onnxruntime-node";

const [folder, ...texts] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(path.join(folder, "adapterdrop.json")));
const tokenizer = await AutoTokenizer.from_pretrained(path.resolve(folder), { local_files_only: true });
const session = await ort.InferenceSession.create(path.join(folder, manifest.variants[0].model));
const encoded = await tokenizer(texts, { padding: true, truncation: true, max_length: manifest.max_lengths.sequence });
const feeds = Object.fromEntries(manifest.inputs.map(({ name }) => [name, new ort.Tensor("int64", encoded[name].data, encoded[name].dims)]));
const results = await session.run(feeds);
for (const task of manifest.tasks.filter(({ head }) => head === "classification")) {
  const { data } = results[task.outputs[0]];
  texts.forEach((text, row) => {
    const logits = Array.from(data.slice(row * task.labels.length, (row + 1) * task.labels.length));
    console.log(JSON.stringify({ text, task: task.name, label: task.labels[logits.indexOf(Math.max(...logits))], logits }));
  });
}
