// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files that change their size while they are mapped: resize WAY FILE [small],
 * where WAY is cut, regrow, beyond, inside or punch, and FILE a path or "memfd".
 * A small one is written page by page, so that it has no large folios.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES 48UL
#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf back;
static volatile char sink;

static void on_bus(int number)
{
	siglongjmp(back, number);
}

/* Touch a page that may lie behind the end; tell whether it did. */
static int touch(char *at, int write)
{
	if (sigsetjmp(back, 1))
		return 1;
	if (write)
		*(volatile char *)at = 1;
	else
		sink = *(volatile char *)at;
	return 0;
}

/* Make a file of PAGES pages by writes of step pages: large folios, or none. */
static int make(const char *path, unsigned long step)
{
	static char bytes[PAGES * PAGE];
	int fd = strcmp(path, "memfd") ? open(path, O_RDWR | O_CREAT | O_TRUNC, 0600)
				       : memfd_create("resize", 0);
	unsigned long i;

	memset(bytes, 7, sizeof(bytes));
	for (i = 0; i < PAGES; i += step)
		if (fd < 0 || write(fd, bytes, step * PAGE) != (ssize_t)(step * PAGE))
			exit(2);
	return fd;
}

static char *map(int fd, unsigned long pages, int flags)
{
	char *area = mmap(NULL, pages * PAGE, RW, flags, fd, 0);

	if (area == MAP_FAILED)
		exit(3);
	return area;
}

static void size(int fd, unsigned long bytes)
{
	if (ftruncate(fd, bytes))
		exit(4);
}

int main(int argc, char **argv)
{
	const char *way = argv[1];
	struct sigaction action = { .sa_handler = on_bus };
	char *shared, *private, *alone;
	unsigned long i;
	int fd, faults = 0;

	if (argc < 3)
		return 1;
	fd = make(argv[2], argc > 3 ? 1 : PAGES);
	sigaction(SIGBUS, &action, NULL);
	shared = map(fd, 2 * PAGES, MAP_SHARED);
	private = map(fd, 2 * PAGES, MAP_PRIVATE);
	alone = map(fd, PAGES, MAP_PRIVATE);
	for (i = 0; i < PAGES; i += 3)
		shared[i * PAGE] = 1;
	for (i = 1; i < PAGES; i += 5)
		private[i * PAGE] = 2;
	for (i = 0; i < PAGES; i += 16)
		sink = private[i * PAGE];
	if (!strcmp(way, "cut")) {
		/* Everything behind the new end goes, copies too. */
		size(fd, 20 * PAGE);
	} else if (!strcmp(way, "regrow")) {
		size(fd, 20 * PAGE);
		size(fd, 70 * PAGE);
		shared[60 * PAGE] = 1;
		private[40 * PAGE] = 1;
		sink = private[65 * PAGE];
	} else if (!strcmp(way, "beyond")) {
		/* A read behind the end maps what lies before it; no page comes. */
		faults += touch(alone + 47 * PAGE, 0);
		size(fd, 40 * PAGE + 100);
		faults += touch(alone + 42 * PAGE, 0);
		faults += touch(alone + 44 * PAGE, 1);
		faults += touch(shared + 60 * PAGE, 1);
		faults += touch(private + 90 * PAGE, 0);
		size(fd, 64 * PAGE);
		faults += touch(shared + 60 * PAGE, 1) * 100;
	} else if (!strcmp(way, "inside")) {
		size(fd, 21 * PAGE + 5);
		sink = shared[18 * PAGE];
	} else if (!strcmp(way, "punch")) {
		/* A hole: private copies stay. */
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * PAGE, 16 * PAGE))
			return 5;
		sink = private[12 * PAGE];
	}
	return faults;
}
