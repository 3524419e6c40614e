/* The loop everybody writes on libnetfilter_queue: recv, nfq_handle_packet, one verdict for each packet. */

#include <errno.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <libnetfilter_queue/libnetfilter_queue.h>

#include "turns.h"

static struct nfq_handle *handle;
static struct turn turn;

static int on_packet(struct nfq_q_handle *queue, struct nfgenmsg *message, struct nfq_data *data, void *unused)
{
	static unsigned char rewritten[4096];
	unsigned char *payload;
	int length = nfq_get_payload(data, &payload);
	uint32_t id = ntohl(nfq_get_msg_packet_hdr(data)->packet_id);

	(void)message, (void)unused;
	turn.packets++;
	turn.bytes += look_at(payload, length);
	if (terms.action == MARK)
		return nfq_set_verdict2(queue, id, NF_ACCEPT, NEW_MARK, 0, NULL);
	if (terms.action == ACCEPT)
		return nfq_set_verdict(queue, id, NF_ACCEPT, 0, NULL);
	memcpy(rewritten, payload, length);
	memset(rewritten + UDP_CHECKSUM, 0, 2);
	return nfq_set_verdict(queue, id, NF_ACCEPT, length, rewritten);
}

static struct turn drain(uint64_t count)
{
	char buffer[4096] __attribute__((aligned));
	int length;

	turn = (struct turn){0, 0};
	while (turn.packets < count) {
		length = recv(nfq_fd(handle), buffer, sizeof buffer, 0);
		if (length < 0)
			die("recv");
		nfq_handle_packet(handle, buffer, length);
	}
	return turn;
}

int main(int argc, char **argv)
{
	struct nfq_q_handle *queue;

	read_terms(argc, argv);
	handle = nfq_open();
	if (!handle)
		die("nfq_open");
	queue = nfq_create_queue(handle, terms.queue, on_packet, NULL);
	if (!queue)
		die("nfq_create_queue");
	if (nfq_set_mode(queue, NFQNL_COPY_PACKET, terms.copy_range) < 0)
		die("nfq_set_mode");
	if (nfq_set_queue_maxlen(queue, terms.max_length) < 0)
		die("nfq_set_queue_maxlen");
	if (setsockopt(nfq_fd(handle), SOL_SOCKET, SO_RCVBUFFORCE, &terms.receive_buffer, sizeof(int)) < 0)
		die("SO_RCVBUFFORCE");
	take_turns(drain);
	nfq_destroy_queue(queue);
	nfq_close(handle);
	return 0;
}
