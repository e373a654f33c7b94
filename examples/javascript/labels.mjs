// node labels.mjs DIR TEXT…: prints the logits of every output for each text, and the label of a classification.
import { readFileSync } from "node:fs";
import path from "node:path";
import { AutoTokenizer } from "@huggingface/transformers";
import ort from "onnxruntime-node";

const [folder, ...given] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(path.join(folder, "adapterdrop.json")));
const tokenizer = await AutoTokenizer.from_pretrained(path.resolve(folder), { local_files_only: true });
const session = await ort.InferenceSession.create(path.join(folder, manifest.variants[0].model));
const limit = manifest.max_lengths.sequence;
const return_token_type_ids = manifest.inputs.some(({ name }) => name === "token_type_ids"); // which not every class of tokenizers has by itself
for (const texts of manifest.padding_counts ? given.map((text) => [text]) : [given]) { // where padding counts, a text by itself
  const encoded = await tokenizer(texts, { padding: true, truncation: true, max_length: limit, return_token_type_ids });
  const [whole, bare] = [true, false].map((add_special_tokens) => tokenizer.encode("a", { add_special_tokens }));
  const closing = whole.slice(whole.lastIndexOf(bare.at(-1)) + 1).map(BigInt); // special tokens, which a text that is too long has lost
  const { data: ids, dims } = encoded.input_ids;
  for (let end = limit; dims[1] === limit && end <= ids.length; end += limit) {
    if (encoded.attention_mask.data[end - 1]) ids.set(closing, end - closing.length);
  }
  const feeds = Object.fromEntries(manifest.inputs.map(({ name }) => [name, new ort.Tensor("int64", encoded[name].data, encoded[name].dims)]));
  const results = await session.run(feeds);
  for (const { name: task, head, labels, outputs } of manifest.tasks) for (const output of outputs) texts.forEach((text, row) => {
    const [data, width] = [results[output].data, results[output].data.length / texts.length];
    const logits = Array.from(data.slice(row * width, (row + 1) * width));
    const label = head === "classification" ? labels[logits.indexOf(Math.max(...logits))] : undefined;
    console.log(JSON.stringify({ text, task, output, label, logits }));
  });
}
