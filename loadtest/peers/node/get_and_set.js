// GET and SET with ioredis over one connection, for both of its peers.

import { measure, name, packages, readPlan, value } from './closed_loop.js';

const { Redis } = packages('ioredis');

export async function getAndSet(options) {
  const plan = await readPlan();
  const url = new URL(plan.url);
  const redis = new Redis({
    path: decodeURIComponent(url.pathname),
    password: url.searchParams.get('pass'),
    commandTimeout: plan.deadline_ms,
    ...options,
  });
  const get = async (key) => (await redis.get(name(key))) === value(key);
  const set = async (key) => (await redis.set(name(key), value(key))) === 'OK';
  await measure(plan, plan.operation === 'set' ? set : get);
  await redis.quit();
}
