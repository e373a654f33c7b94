// The script of pipeline_page.html: as pipeline.mjs, with files that the browser fetches.
import { env, pipeline } from "@huggingface/transformers";

// By default, a browser looks folders up on the hub, keeps files of a folder that has changed, and gets WebAssembly from a CDN.
Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, useBrowserCache: false });
env.backends.onnx.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", location.href).href;
env.backends.onnx.wasm.numThreads = 1; // more need a page with cross-origin isolation
const asked = new URLSearchParams(location.search);
const output = document.querySelector("pre");
try {
  const classify = await pipeline("text-classification", asked.get("folder"));
  const found = [];
  for (const text of asked.getAll("text")) found.push(...(await classify(text))); // one by one: the logits of some models depend on padding
  output.append(JSON.stringify(found));
} catch (error) {
  output.append(`${error}\n`);
}
output.dataset.done = "";
