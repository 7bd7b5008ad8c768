// Keeps notes in a file: Node's own HTTP server, behind the front door.
const fs = require('fs')
const http = require('http')
const path = require('path')

const notes = path.join(process.env.DATA_DIR || '/data', 'notes.txt')
const read = () => (fs.existsSync(notes) ? fs.readFileSync(notes, 'utf8') : '')
const escape = text => text.replace(/[&<>]/g, c => `&#${c.charCodeAt(0)};`)

http.createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/') {
    let body = ''
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      fs.appendFileSync(notes, new URLSearchParams(body).get('note') + '\n')
      response.writeHead(303, { location: '/' }).end()
    })
    return
  }
  // A path of the app's own that the sidecar has too: with SIDECAR_PREFIX=/_sidecar it is the app's.
  if (request.url === '/health') {
    response.writeHead(200, { 'content-type': 'text/plain' }).end('the app says: well')
    return
  }
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
  response.end(`<!doctype html><title>Notes</title><form method="post">
    <input name="note" aria-label="Note"> <button>Keep</button></form><pre>${escape(read())}</pre>`)
}).listen(Number(process.env.PORT || 7861), '127.0.0.1')
