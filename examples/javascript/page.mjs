// The script of page.html: as labels_web.mjs, with files that the browser fetches.
import { AutoTokenizer, env } from "@huggingface/transformers";
import * as ort from "onnxruntime-web";

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

async function* labels(folder, given) {
  const manifest = await (await fetched(`${folder}/adapterdrop.json`)).json();
  // By default, a browser looks folders up on the hub, and keeps the tokenizer of a folder that has changed.
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, useBrowserCache: false });
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  ort.env.wasm.numThreads = 1; // more need a page with cross-origin isolation
  const weights = Object.keys(manifest.files).find((name) => /\.onnx[._]data$/.test(name));
  const externalData = [{ path: weights.split("/").at(-1), data: `${folder}/${weights}` }];
  const session = await ort.InferenceSession.create(`${folder}/${manifest.variants[0].model}`, { externalData });
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
    for (const { name: task, head, labels, outputs } of manifest.tasks) for (const output of outputs) for (const [row, text] of texts.entries()) {
      const [data, width] = [results[output].data, results[output].data.length / texts.length];
      const logits = Array.from(data.slice(row * width, (row + 1) * width));
      const label = head === "classification" ? labels[logits.indexOf(Math.max(...logits))] : undefined;
      yield { text, task, output, label, logits };
    }
  }
}

const asked = new URLSearchParams(location.search);
const output = document.querySelector("pre");
try {
  for await (const line of labels(asked.get("folder"), asked.getAll("text"))) output.append(`${JSON.stringify(line)}\n`);
} catch (error) {
  output.append(`${error}\n`);
}
output.dataset.done = "";
