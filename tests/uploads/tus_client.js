// Uploads a file with tus-js-client in pieces of 1 MiB, gives up after the second, and has another client go on.
// Arguments: the folder of tus-js-client, the address of uploads in parts, the file. Prints what happened as JSON.
"use strict";

const fs = require("fs");
const path = require("path");

const [modules, endpoint, file] = process.argv.slice(2);
const tus = require(path.join(modules, "node_modules/tus-js-client"));

function upload(url, stopAfter) {
  return new Promise((resolve, reject) => {
    const pieces = [];
    const upload = new tus.Upload(fs.createReadStream(file), {
      endpoint,
      uploadUrl: url,
      chunkSize: 1024 * 1024,
      retryDelays: [0, 100, 500],
      metadata: { filename: path.basename(file), filetype: "text/plain", project: "demo" },
      onError: reject,
      onChunkComplete(_, accepted) {
        pieces.push(accepted);
        if (pieces.length === stopAfter) {
          upload.abort().then(() => resolve({ url: upload.url, pieces }), reject);
        }
      },
      onSuccess(payload) {
        const id = payload.lastResponse.getHeader("Upload-Id");
        resolve({ url: upload.url, pieces, id });
      },
    });
    upload.start();
  });
}

async function main() {
  const first = await upload(null, 2);
  const second = await upload(first.url, 0);
  process.stdout.write(JSON.stringify({ first, second }));
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
