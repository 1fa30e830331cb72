SELECT bench.send('e1');
