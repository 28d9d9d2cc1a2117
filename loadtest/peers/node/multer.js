// Express with multer, which stores files on the disk. With HEADROOM_LOADTEST_DURABLE, it does more of what Headroom does: it
// computes SHA-256, and syncs the file and the folder before the answer.

import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Transform, pipeline } from 'node:stream';
import { packages, ready } from './item.js';

const express = packages('express');
const multer = packages('multer');

const folder = process.env.HEADROOM_LOADTEST_FOLDER;
const isDurable = process.env.HEADROOM_LOADTEST_DURABLE === '1';
const disk = multer.diskStorage({ destination: folder, flush: isDurable });

const hashing = {
  _handleFile(request, file, done) {
    const hash = createHash('sha256');
    const transform = (bytes, _, next) => {
      hash.update(bytes);
      next(null, bytes);
    };
    // A failure of one of the streams ends the other, and the disk's stream reports it.
    const stream = pipeline(file.stream, new Transform({ transform }), () => {});
    disk._handleFile(request, { ...file, stream }, (error, info) =>
      done(error, error ? undefined : { ...info, sha256: hash.digest('hex') }),
    );
  },
  _removeFile: (request, file, done) => disk._removeFile(request, file, done),
};

const syncFolder = async () => {
  const opened = await open(folder);
  try {
    await opened.sync();
  } finally {
    await opened.close();
  }
};

const app = express();
const upload = multer({ storage: isDurable ? hashing : disk });
app.post('/api/uploads', upload.single('file'), async (request, response) => {
  if (isDurable) await syncFolder();
  const { filename, originalname, size, sha256 } = request.file;
  response.status(201).json({ id: filename, name: originalname, bytes: size, sha256 });
});
const server = app.listen(0, '127.0.0.1', () => ready(server.address()));
