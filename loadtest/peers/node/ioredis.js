// GET with ioredis over one connection. With the argument `pipelining`, one pipeline has the requests of one turn of
// the event loop; without it, the settings are the defaults.

import { measure, packages, plan, value } from './closed_loop.js';

const { Redis } = packages('ioredis');
const url = new URL(plan.url);
const redis = new Redis({
  path: decodeURIComponent(url.pathname),
  password: url.searchParams.get('pass'),
  commandTimeout: plan.deadline_ms,
  enableAutoPipelining: process.argv[2] === 'pipelining',
});
await measure(async (key) => (await redis.get(`item:${key}`)) === value(key));
await redis.quit();
