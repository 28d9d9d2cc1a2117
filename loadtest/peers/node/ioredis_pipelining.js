// ioredis, which puts what is asked within one turn of the event loop into one pipeline.

import { getAndSet } from './get_and_set.js';

await getAndSet({ enableAutoPipelining: true });
