/* As fast as the kernel's interface goes: recvmmsg, and one batch verdict for all that came with it. No library.
 * Packets that are rewritten need a verdict each; those of one recvmmsg leave in one datagram. */

#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>

#include "turns.h"

#define SLOTS 64
#define SLOT 8192

static int fd;
static struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
static char arena[SLOTS][SLOT] __attribute__((aligned(8)));
static struct mmsghdr headers[SLOTS];
static struct iovec slots[SLOTS];
static char joined[SLOTS * SLOT] __attribute__((aligned(8)));
static size_t joined_length;

struct request { struct nlmsghdr nlmsg; struct nfgenmsg nfgen; char attributes[64]; };

static void begin(struct request *request, int type, int flags)
{
	memset(request, 0, sizeof *request);
	request->nlmsg.nlmsg_len = NLMSG_HDRLEN + sizeof(struct nfgenmsg);
	request->nlmsg.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	request->nlmsg.nlmsg_flags = NLM_F_REQUEST | flags;
	request->nfgen.res_id = htons(terms.queue);
}

static void put(struct request *request, int type, const void *data, int length)
{
	struct nlattr *attribute = (void *)((char *)request + request->nlmsg.nlmsg_len);

	attribute->nla_len = NLA_HDRLEN + length;
	attribute->nla_type = type;
	memcpy(attribute + 1, data, length);
	request->nlmsg.nlmsg_len += NLA_ALIGN(attribute->nla_len);
}

static void say(const struct request *request)
{
	if (sendto(fd, request, request->nlmsg.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		die("sendto");
}

static void verdict_up_to(uint32_t id)
{
	struct nfqnl_msg_verdict_hdr header = {htonl(NF_ACCEPT), htonl(id)};
	struct request request;

	begin(&request, NFQNL_MSG_VERDICT_BATCH, 0);
	put(&request, NFQA_VERDICT_HDR, &header, sizeof header);
	if (terms.action == MARK)
		put(&request, NFQA_MARK, &(uint32_t){htonl(NEW_MARK)}, 4);
	say(&request);
}

static void rewrite(uint32_t id, const char *payload, int length)
{
	struct nfqnl_msg_verdict_hdr header = {htonl(NF_ACCEPT), htonl(id)};
	struct request *request = (void *)(joined + joined_length);
	struct nlattr *attribute;

	begin(request, NFQNL_MSG_VERDICT, 0);
	put(request, NFQA_VERDICT_HDR, &header, sizeof header);
	attribute = (void *)((char *)request + request->nlmsg.nlmsg_len);
	attribute->nla_len = NLA_HDRLEN + length;
	attribute->nla_type = NFQA_PAYLOAD;
	memcpy(attribute + 1, payload, length);
	memset((char *)(attribute + 1) + UDP_CHECKSUM, 0, 2);
	request->nlmsg.nlmsg_len += NLA_ALIGN(attribute->nla_len);
	joined_length += request->nlmsg.nlmsg_len;
}

static void say_joined(void)
{
	if (sendto(fd, joined, joined_length, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		die("sendto");
	joined_length = 0;
}

static void look(const char *message, struct turn *turn, uint32_t *id)
{
	const struct nlmsghdr *nlmsg = (const void *)message;
	const char *at = message + NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)), *end = message + nlmsg->nlmsg_len;

	if (nlmsg->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return;
	while (end - at >= NLA_HDRLEN) {
		const struct nlattr *attribute = (const void *)at;

		if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
			break;
		if (attribute->nla_type == NFQA_PACKET_HDR)
			*id = ntohl(((const struct nfqnl_msg_packet_hdr *)(attribute + 1))->packet_id);
		else if (attribute->nla_type == NFQA_PAYLOAD) {
			turn->bytes += look_at((const unsigned char *)(attribute + 1), attribute->nla_len - NLA_HDRLEN);
			if (terms.action == REWRITE)
				rewrite(*id, (const char *)(attribute + 1), attribute->nla_len - NLA_HDRLEN);
		}
		at += NLA_ALIGN(attribute->nla_len);
	}
	turn->packets++;
}

static struct turn drain(uint64_t count)
{
	struct turn turn = {0, 0};
	uint32_t id = 0;

	while (turn.packets < count) {
		int many = recvmmsg(fd, headers, SLOTS, MSG_WAITFORONE, NULL);

		if (many < 0)
			die("recvmmsg");
		for (int i = 0; i < many; i++)
			look(arena[i], &turn, &id);
		if (terms.action == REWRITE)
			say_joined();
		else
			verdict_up_to(id);
	}
	return turn;
}

static void bind_queue(void)
{
	struct nfqnl_msg_config_cmd command = {.command = NFQNL_CFG_CMD_BIND};
	struct nfqnl_msg_config_params params = {htonl(terms.copy_range), NFQNL_COPY_PACKET};
	uint32_t max_length = htonl(terms.max_length);
	struct request request;
	struct { struct nlmsghdr nlmsg; struct nlmsgerr error; char rest[256]; } answer;

	begin(&request, NFQNL_MSG_CONFIG, NLM_F_ACK);
	put(&request, NFQA_CFG_CMD, &command, sizeof command);
	put(&request, NFQA_CFG_PARAMS, &params, 5);
	put(&request, NFQA_CFG_QUEUE_MAXLEN, &max_length, sizeof max_length);
	say(&request);
	if (recv(fd, &answer, sizeof answer, 0) < 0)
		die("recv");
	if (answer.nlmsg.nlmsg_type != NLMSG_ERROR || answer.error.error) {
		errno = -answer.error.error;
		die("bind");
	}
}

int main(int argc, char **argv)
{
	read_terms(argc, argv);
	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (fd < 0 || bind(fd, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &terms.receive_buffer, sizeof(int)) < 0)
		die("SO_RCVBUFFORCE");
	for (int i = 0; i < SLOTS; i++) {
		slots[i] = (struct iovec){arena[i], SLOT};
		headers[i].msg_hdr = (struct msghdr){.msg_iov = &slots[i], .msg_iovlen = 1};
	}
	bind_queue();
	take_turns(drain);
	close(fd);
	return 0;
}
