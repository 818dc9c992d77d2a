// Two workers, buffers and JSON.
const { Worker, isMainThread } = require('worker_threads');
if (isMainThread) {
  for (let i = 0; i < 2; i++) new Worker(__filename);
} else {
  let text = '';
  for (let i = 0; i < 200; i++) {
    const buffer = Buffer.alloc(65536, i);
    text = JSON.stringify({ i, data: buffer.toString('base64').slice(0, 200) });
    JSON.parse(text);
  }
}
