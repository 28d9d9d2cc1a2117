// Express with its defaults.

import { item, packages, ready } from './item.js';

const app = packages('express')();
app.get('/items/:id', (request, response) => response.json(item(Number(request.params.id))));
const server = app.listen(0, '127.0.0.1', () => ready(server.address()));
