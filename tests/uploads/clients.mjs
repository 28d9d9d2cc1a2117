// Sends files with a client from npm, one after the other. Arguments: the folder of the packages, `tus-js-client` or `uppy`, the
// address of uploads in parts, the files. Prints by the name of each file whether it was stored, or the error, as JSON.

import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, client, endpoint, ...files] = process.argv.slice(2);
const chunkSize = 8 * 1024 * 1024;

async function withTus(file) {
  const tus = createRequire(path.join(modules, "package.json"))("tus-js-client");
  const metadata = { filename: path.basename(file), filetype: "text/plain" };
  return new Promise((resolve) => {
    const upload = new tus.Upload(createReadStream(file), {
      endpoint, chunkSize, metadata, retryDelays: [],
      onError: (error) => resolve(error.message),
      onSuccess: () => resolve("stored"),
    });
    upload.start();
  });
}

async function withUppy(file) {
  const load = async (name) => {
    const found = path.join(modules, "node_modules/@uppy", name, "lib/index.js");
    return (await import(pathToFileURL(found))).default;
  };
  const [Uppy, Tus] = await Promise.all([load("core"), load("tus")]);
  const uppy = new Uppy({ debug: false, logger: { debug() {}, warn() {}, error() {} } });
  uppy.use(Tus, { endpoint, chunkSize, retryDelays: [] });
  // In Node, tus-js-client reads a stream.
  uppy.addFile({ name: path.basename(file), type: "text/plain", data: createReadStream(file) });
  const { failed } = await uppy.upload();
  return failed.length > 0 ? failed[0].error : "stored";
}

const send = { "tus-js-client": withTus, uppy: withUppy }[client];
const told = {};
for (const file of files) told[path.basename(file)] = await send(file);
process.stdout.write(JSON.stringify(told));
