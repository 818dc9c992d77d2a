// SPDX-License-Identifier: GPL-2.0-only
/*
 * One of each: fork and copy on write, shared anonymous memory, private and
 * shared file mappings, mremap, brk, the zero page, populate, mlock, DONTFORK,
 * WIPEONFORK, MADV_FREE.  Two children, each writes some of what it inherited.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)

static char *anon(unsigned long pages, int flags)
{
	char *area = mmap(NULL, pages * PAGE, RW, MAP_ANONYMOUS | flags, -1, 0);

	if (area == MAP_FAILED)
		exit(1);
	return area;
}

static void fill(char *area, unsigned long first, unsigned long end)
{
	for (; first < end; first++)
		area[first * PAGE] = 1;
}

static unsigned int look(volatile char *area, unsigned long first, unsigned long end)
{
	unsigned int sum = 0;

	for (; first < end; first++)
		sum += (unsigned char)area[first * PAGE];
	return sum;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "/bin/sh";
	char *private = anon(64, MAP_PRIVATE), *shared = anon(32, MAP_SHARED);
	char *keep = anon(8, MAP_PRIVATE), *wipe = anon(8, MAP_PRIVATE);
	char *lazy = anon(16, MAP_PRIVATE), *zero = anon(16, MAP_PRIVATE);
	char *grown = anon(8, MAP_PRIVATE), *locked = anon(8, MAP_PRIVATE);
	char *full, *file, *heap;
	int fd = open(name, O_RDONLY), child;
	unsigned int sum = 0;

	fill(private, 0, 48);
	fill(shared, 0, 16);
	fill(keep, 0, 8);
	fill(wipe, 0, 8);
	fill(lazy, 0, 16);
	sum += look(zero, 0, 16);
	fill(zero, 4, 8);
	fill(grown, 0, 8);
	madvise(keep, 8 * PAGE, MADV_DONTFORK);
	madvise(wipe, 8 * PAGE, MADV_WIPEONFORK);
	madvise(lazy, 8 * PAGE, MADV_FREE);
	mlock(locked, 4 * PAGE);
	grown = mremap(grown, 8 * PAGE, 24 * PAGE, MREMAP_MAYMOVE);
	fill(grown, 8, 12);
	full = mmap(NULL, 16 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	heap = sbrk(20 * PAGE);
	fill(heap, 0, 20);
	sbrk(-8L * (long)PAGE);
	file = mmap(NULL, 24 * PAGE, RW, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED || full == MAP_FAILED || grown == MAP_FAILED)
		return 1;
	sum += look(file, 0, 20);
	fill(file, 2, 6);
	child = fork();
	if (child == 0) {
		fill(private, 0, 24);
		fill(shared, 16, 24);
		sum += look(private, 24, 64);
		sum += look(wipe, 0, 8);
		fill(file, 4, 8);
		madvise(private + 40 * PAGE, 8 * PAGE, MADV_DONTNEED);
		_exit(sum == 1);
	}
	waitpid(child, NULL, 0);
	fill(private, 0, 4);
	child = fork();
	if (child == 0) {
		fill(grown, 0, 4);
		sum += look(shared, 0, 32);
		munmap(private, 32 * PAGE);
		madvise(lazy, 16 * PAGE, MADV_POPULATE_READ);
		madvise(zero, 16 * PAGE, MADV_POPULATE_WRITE);
		_exit(sum == 1);
	}
	fill(private, 8, 16);
	waitpid(child, NULL, 0);
	fill(grown, 0, 8);
	fill(full, 0, 4);
	mprotect(private, 16 * PAGE, PROT_READ);
	sum += look(private, 0, 16);
	return sum == 1;
}
