// node onnxruntime_web.mjs MODEL INPUT.json OUTPUT.json NODE_MODULES: runs MODEL on the matrix x with WebAssembly.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [model, input, output, modules] = process.argv.slice(2);
const ort = createRequire(path.resolve(modules, "index.js"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const rows = JSON.parse(fs.readFileSync(input));
const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)), { executionProviders: ["wasm"] });
const x = new ort.Tensor("float32", Float32Array.from(rows.flat()), [rows.length, rows[0].length]);
const outputs = await session.run({ x });
fs.writeFileSync(output, JSON.stringify(Array.from(outputs[session.outputNames[0]].data)));
process.exit(0); // worker threads of the library would keep the process
