// What the servers of the comparison answer, and how they tell that they are ready.

import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

// The packages are in the cache (scripts/setup/peers.sh), not beside this file.
export const packages = createRequire(`${process.env.HEADROOM_CACHE}/bench-peers/`);

export const item = (id) => ({ id, name: `item ${id}`, price: 12.5, tags: ['small', 'red', 'new'] });

export const ready = (address) =>
  writeFileSync(process.env.HEADROOM_LOADTEST_READY, JSON.stringify({ listen: `127.0.0.1:${address.port}` }));
