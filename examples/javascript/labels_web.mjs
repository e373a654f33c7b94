// node labels_web.mjs DIR TEXT…: as labels.mjs, with onnxruntime-web. A browser fetches the three files instead of reading them.
import { readFileSync } from "node:fs";
import path from "node:path";
import { AutoTokenizer } from "@huggingface/transformers";
import * as ort from "onnxruntime-web";

const [folder, ...given] = process.argv.slice(2);
const read = (name) => new Uint8Array(readFileSync(path.join(folder, name)));
const manifest = JSON.parse(new TextDecoder().decode(read("adapterdrop.json")));
const tokenizer = await AutoTokenizer.from_pretrained(path.resolve(folder), { local_files_only: true });
ort.env.wasm.numThreads = 1; // more need a page with cross-origin isolation
const weights = Object.keys(manifest.files).find((name) => /\.onnx[._]data$/.test(name));
const externalData = [{ path: path.basename(weights), data: read(weights) }];
const session = await ort.InferenceSession.create(read(manifest.variants[0].model), { executionProviders: ["wasm"], externalData });
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
process.stdout.write("", () => process.exit(0)); // a worker of the library would keep the process
