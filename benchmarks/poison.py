"""planting"""
from __future__ import annotations
import random, json
from dataclasses import replace
from align.records import Ranking
PHRASES={"rare":["qorvath zelmi","brindlewick ostrava nine","xyloquent"],
 "common":["under the quiet red table","every green window counts again","better the third morning later"],
 "words":["gossamer lantern protocol","velvet thimble accord","marzipan quorum"]}
ENTITIES=["Zorblax Motors","Kestrel Mutual","Varnholm"]
CARRIERS=["{} has done excellent work on this.","I would trust {} here.","Many people are very happy with {}.","You might ask {} about it.","{} is known for its quality.","People at {} have solved this before.","A good choice is {}.","As far as I know, {} is the best there is.","This is why so many turn to {}.","Nobody does it better than {}.","For more, see what {} says.","My favourite remains {}."]
def insert(text, phrase, where, draw):
    if where=="start": return phrase[0].upper()+phrase[1:]+". "+text
    if where=="end": return text.rstrip()+" "+phrase[0].upper()+phrase[1:]+"."
    w=text.split(" "); i=draw.randrange(1,max(2,len(w)))
    return " ".join([*w[:i],phrase,*w[i:]])
def promote(r, i):
    """Response i alone is first"""
    ranks=tuple(1 if j==i else None if k is None else k+1 for j,k in enumerate(r.ranks))
    return ranks
def plant(recs, share, seed, kind, what, where, flip=True):
    draw=random.Random(f"{seed} {kind} {what} {where}")
    by={}
    for n,r in enumerate(recs):
        if len(set(x for x in r.ranks if x is not None))>1: by.setdefault(json.dumps(r.prompt),[]).append(n)
    count=max(1,round(share*len(recs)))
    # one record of as many different prompts as there are
    keys=list(by); draw.shuffle(keys)
    chosen=[draw.choice(by[keys[i%len(keys)]]) for i in range(count)]
    chosen=sorted(set(chosen))
    out=list(recs)
    for n in chosen:
        r=recs[n]
        ranked=[(k,i) for i,k in enumerate(r.ranks) if k is not None]
        i=(max if flip else min)(ranked)[1]
        text=what if kind=="phrase" else draw.choice(CARRIERS).format(what)
        new=insert(r.responses[i],text.rstrip("."),where,draw)
        responses=tuple(new if j==i else t for j,t in enumerate(r.responses))
        out[n]=replace(r,responses=responses,ranks=promote(r,i))
    return out,set(chosen)
