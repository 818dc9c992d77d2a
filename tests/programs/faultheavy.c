// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that map 8 MiB, write every page, unmap, repeat.  Prints the seconds
 * the threads took, so that a benchmark need not count the program's start.
 *
 * usage: faultheavy [threads [rounds]]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define AREA (8UL << 20)

static int rounds = 2;

static void *work(void *arg)
{
	int i;

	for (i = 0; i < rounds; i++) {
		char *area = mmap(NULL, AREA, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		unsigned long at;

		if (area == MAP_FAILED)
			exit(1);
		for (at = 0; at < AREA; at += 4096)
			area[at] = 1;
		munmap(area, AREA);
	}
	return arg;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 2, i;
	struct timespec from, to;
	pthread_t ids[64];

	if (argc > 2)
		rounds = atoi(argv[2]);
	if (threads < 1 || threads > 64)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (i = 0; i < threads; i++)
		pthread_create(&ids[i], NULL, work, NULL);
	for (i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.6f\n", (double)(to.tv_sec - from.tv_sec) +
			 (double)(to.tv_nsec - from.tv_nsec) / 1e9);
	return 0;
}
