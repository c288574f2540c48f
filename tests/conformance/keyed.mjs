// A proxy that adds an API key to each request and changes nothing else: keyed.mjs BASE-URL KEY
import http from 'node:http';

const [base, key] = process.argv.slice(2);
const { hostname, port } = new URL(base);
const agent = new http.Agent({ keepAlive: true });

const server = http.createServer((request, response) => {
    const headers = [...request.rawHeaders, 'x-api-key', key];
    const { method, url: path } = request;
    const onward = http.request({ hostname, port, method, path, agent, headers, setHost: false }, answer => {
        response.writeHead(answer.statusCode, answer.rawHeaders);
        response.flushHeaders();
        answer.pipe(response);
        answer.on('error', () => response.destroy());
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
});
server.listen(0, '127.0.0.1', () => console.error(`listening on http://127.0.0.1:${server.address().port}`));
