// ioredis with its default settings.

import { getAndSet } from './get_and_set.js';

await getAndSet({});
