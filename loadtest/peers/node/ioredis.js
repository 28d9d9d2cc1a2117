// ioredis as it comes.

import { getAndSet } from './get_and_set.js';

await getAndSet({});
