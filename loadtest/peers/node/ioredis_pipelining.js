// ioredis with one pipeline for the requests of one turn of the event loop.

import { getAndSet } from './get_and_set.js';

await getAndSet({ enableAutoPipelining: true });
