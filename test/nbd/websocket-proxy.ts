/**
 * Under Deno: carries NBD from WebSockets to the server at a Unix socket, as websockify does.
 * Prints its port. Argument: the socket.
 */
import { overWebSocket } from '../../hosts/bases/nbd/websocket.ts';

const [path] = Deno.args;
const server = Deno.serve({ hostname: '127.0.0.1', port: 0, onListen: () => {} }, (request) => {
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onopen = async () => {
    const { readable, writable } = overWebSocket(socket);
    const target = await Deno.connect({ transport: 'unix', path });
    await Promise.allSettled([readable.pipeTo(target.writable), target.readable.pipeTo(writable)]);
  };
  return response;
});
console.log(server.addr.port);
