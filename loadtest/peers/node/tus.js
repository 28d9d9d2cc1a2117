// @tus/server with its file store, both with their defaults.

import { packages, ready } from './item.js';

const { Server } = await import(packages.resolve('@tus/server'));
const { FileStore } = await import(packages.resolve('@tus/file-store'));

const datastore = new FileStore({ directory: process.env.HEADROOM_LOADTEST_FOLDER });
const tus = new Server({ path: '/api/uploads/tus', datastore });
const server = tus.listen(0, '127.0.0.1', () => ready(server.address()));
