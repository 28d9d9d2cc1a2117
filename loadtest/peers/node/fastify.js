// Fastify with a schema of the response, as its documentation recommends.

import { item, packages, ready } from './item.js';

const fastify = packages('fastify')();
const response = {
  type: 'object',
  properties: {
    id: { type: 'integer' },
    name: { type: 'string' },
    price: { type: 'number' },
    tags: { type: 'array', items: { type: 'string' } },
  },
};
fastify.get('/items/:id', { schema: { response: { 200: response } } }, async (request) => item(Number(request.params.id)));
await fastify.listen({ port: 0, host: '127.0.0.1' });
ready(fastify.server.address());
