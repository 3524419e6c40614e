/* How a contender talks to the referee; see bench/contenders/turns.py. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct turn { uint64_t packets, bytes; };

enum action { ACCEPT, MARK, REWRITE };

static struct { int queue, copy_range, max_length, receive_buffer; enum action action; } terms;

#define NEW_MARK 7
/* Rewriting a packet clears the checksum of its UDP header. */
#define UDP_CHECKSUM 26

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double cpu(const struct rusage *usage)
{
	return usage->ru_utime.tv_sec + usage->ru_stime.tv_sec + (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

static void read_terms(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: %s QUEUE COPY_RANGE MAX_LENGTH RECEIVE_BUFFER accept|mark|rewrite\n", argv[0]);
		exit(2);
	}
	terms.queue = atoi(argv[1]);
	terms.copy_range = atoi(argv[2]);
	terms.max_length = atoi(argv[3]);
	terms.receive_buffer = atoi(argv[4]);
	terms.action = argv[5][0] == 'm' ? MARK : argv[5][0] == 'r' ? REWRITE : ACCEPT;
}

/* The bytes a handler would look at. */
static inline uint64_t look_at(const unsigned char *payload, int length)
{
	volatile unsigned char version = payload[0] >> 4;

	(void)version;
	return length;
}

static void take_turns(struct turn (*drain)(uint64_t count))
{
	char line[32];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		struct rusage before, after;
		struct timespec start, end;
		struct turn turn;

		getrusage(RUSAGE_SELF, &before);
		clock_gettime(CLOCK_MONOTONIC, &start);
		turn = drain(strtoull(line, NULL, 10));
		getrusage(RUSAGE_SELF, &after);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("{\"packets\": %llu, \"bytes\": %llu, \"cpu\": %.6f, \"wall\": %.9f}\n",
		       (unsigned long long)turn.packets, (unsigned long long)turn.bytes, cpu(&after) - cpu(&before),
		       (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9);
		fflush(stdout);
	}
}
