// node pipeline.mjs DIR TEXT…: prints the labels of a folder with one classification, with a pipeline of transformers.js.
import path from "node:path";
import { pipeline } from "@huggingface/transformers";

const [folder, ...texts] = process.argv.slice(2);
// By default, pipelines look for the graph in onnx/, with a suffix for the precision; "fp32" has none.
const options = { subfolder: "", dtype: "fp32", local_files_only: true };
const classify = await pipeline("text-classification", path.resolve(folder), options);
console.log(JSON.stringify(await classify(texts)));
