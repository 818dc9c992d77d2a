// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that map, touch, protect, empty and unmap memory as fast as they can:
 * areas of their own, and one area that all of them share.  SIGSEGV is caught,
 * since another thread may have taken a right away.
 *
 * usage: cstress [threads [steps]]
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define SHARED_PAGES 512

static char *shared;
static int steps = 1000;
static __thread sigjmp_buf escape;

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(escape, 1);
}

static unsigned int next(unsigned int *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void touch(volatile char *at, int write)
{
	if (sigsetjmp(escape, 1))
		return;
	if (write)
		*at = 1;
	else
		(void)*at;
}

static void own_area(unsigned int *seed)
{
	unsigned long pages = 1 + next(seed) % 64;
	char *area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long i, first = next(seed) % pages;
	unsigned long count = 1 + next(seed) % (pages - first);

	if (area == MAP_FAILED)
		return;
	for (i = 0; i < pages; i++)
		touch(area + i * PAGE, next(seed) & 1);
	mprotect(area + first * PAGE, count * PAGE, PROT_READ);
	for (i = 0; i < 4; i++)
		touch(area + next(seed) % pages * PAGE, next(seed) & 1);
	first = next(seed) % pages;
	madvise(area + first * PAGE, (1 + next(seed) % (pages - first)) * PAGE,
		MADV_DONTNEED);
	for (i = 0; i < 4; i++)
		touch(area + next(seed) % pages * PAGE, next(seed) & 1);
	munmap(area, pages * PAGE);
}

static void common_area(unsigned int *seed)
{
	unsigned long first = next(seed) % SHARED_PAGES, i;
	unsigned long count = 1 + next(seed) % 8;
	int prot = PROT_READ | (next(seed) % 4 ? PROT_WRITE : 0);

	if (first + count > SHARED_PAGES)
		count = SHARED_PAGES - first;
	switch (next(seed) % 4) {
	case 0:
		mprotect(shared + first * PAGE, count * PAGE, prot);
		break;
	case 1:
		madvise(shared + first * PAGE, count * PAGE, MADV_DONTNEED);
		break;
	default:
		for (i = 0; i < 8; i++)
			touch(shared + next(seed) % SHARED_PAGES * PAGE,
			      next(seed) & 1);
	}
}

static void *work(void *arg)
{
	unsigned int seed = 2463534242u + 7919u * (unsigned int)(long)arg;
	int i;

	for (i = 0; i < steps; i++) {
		if (next(&seed) % 4 == 0)
			own_area(&seed);
		else
			common_area(&seed);
		if (next(&seed) % 16 == 0) {
			char *heap = malloc(1 + next(&seed) % 40000);

			if (heap)
				heap[0] = 1;
			free(heap);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 4, i;
	struct sigaction action = { .sa_handler = on_segv, .sa_flags = SA_NODEFER };
	pthread_t ids[64];

	if (argc > 2)
		steps = atoi(argv[2]);
	if (threads < 1 || threads > 64)
		return 2;
	sigaction(SIGSEGV, &action, NULL);
	shared = mmap(NULL, SHARED_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < threads; i++)
		pthread_create(&ids[i], NULL, work, (void *)(long)i);
	for (i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
