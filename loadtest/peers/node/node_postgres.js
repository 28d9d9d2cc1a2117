// node-postgres with its Pool and a prepared statement.

import { measure, packages, plan, value } from './closed_loop.js';

const pg = packages('pg');
const pool = new pg.Pool({
  connectionString: plan.url,
  max: plan.connections_max,
  connectionTimeoutMillis: plan.deadline_ms,
  query_timeout: plan.deadline_ms,
});
await measure(async (key) => {
  const { rows } = await pool.query({
    name: 'select-item',
    text: 'SELECT payload FROM item WHERE id = $1',
    values: [key],
  });
  return rows[0].payload === value(key);
});
await pool.end();
